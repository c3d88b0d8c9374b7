"""symphony token: make, list and revoke tokens (cli/token.py).

    symphony token add ci --principal ci --scope run --expires 30d     prints the token: once, and only it, on stdout
    symphony token list
    symphony token revoke ci

Works on the token file, whether or not a server runs; a running one takes note at its next call.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_symphony.abi.user import own_user
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.table import show, show_one
from vllm_symphony.errors import InvalidArgument

if TYPE_CHECKING:
    from vllm_symphony.edge.rate import Limit
    from vllm_symphony.edge.token import Token

EXAMPLE = "symphony token add ci --principal ci --scope run --expires 30d"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a token and print it", allow_abbrev=False)
    add.add_argument("name", metavar="NAME", help="what lists call it, and what revokes it")
    add.add_argument("--principal", metavar="P", required=True, help="who its bearer is: the owner of files and processes")
    add.add_argument("--group", metavar="G", action="append", default=[], help="a group of the principal; may be repeated")
    add.add_argument("--scope", metavar="S", action="append", default=[],
                     help="run: may start programs; admin: sees and may do everything; may be repeated")  # fmt: skip
    add.add_argument("--expires", metavar="WHEN", type=_expiry, help="30d (s, m, h, d) or 2027-01-31 (default: never)")
    add.add_argument("--rate", metavar="RATE", type=_rate, help="how fast its bearers may ask, as 20/s or 20/s:40, beside "
                     "their principal's limit (default: no limit of its own)")  # fmt: skip
    listing = actions.add_parser("list", help="list tokens, not the secrets", allow_abbrev=False)
    revoke = actions.add_parser("revoke", help="make a token worthless, at once", allow_abbrev=False)
    revoke.add_argument("name", metavar="NAME")
    for action in (add, listing, revoke):
        action.add_argument("--state-dir", metavar="DIR", type=Path, help="where the tokens are (default: $SYMPHONY_STATE_DIR, "
                            "else $XDG_STATE_HOME/symphony, else ~/.local/state/symphony)")  # fmt: skip
        action.add_argument("--json", action="store_true", help="as JSON")


def start(args: argparse.Namespace) -> int:
    from vllm_symphony.edge.audit import Audit
    from vllm_symphony.edge.state_dir import default_state_dir
    from vllm_symphony.edge.token import make
    from vllm_symphony.edge.token_file import TokenFile

    state_dir = (args.state_dir or default_state_dir()).expanduser().absolute()
    file, audit = TokenFile(state_dir), Audit(state_dir)
    line = {"principal": own_user(), "door": "cli", "action": f"token {args.action}"}
    if args.action == "add":
        now_s = time.time()
        if args.expires is not None and args.expires <= now_s:
            raise InvalidArgument(f"--expires: {_date(args.expires)} is past")
        token, text = make(
            args.name, args.principal, now_s=now_s, groups=args.group, scopes=args.scope, expires_s=args.expires, rate=args.rate
        )
        file.add(token)
        audit.write(**line, target=token.name, outcome="OK", token=token.id, holder=token.principal, scopes=",".join(token.scopes))
        audit.close()
        _show_new(token, text, as_json=args.json)
    elif args.action == "revoke":
        gone = file.revoke(args.name)
        audit.write(**line, target=gone.name, outcome="OK", token=gone.id, holder=gone.principal)
        audit.close()
        if args.json:
            show_one(_listed(gone), as_json=True)
    else:
        show([_listed(token) for token in file.by_id().values()], _COLUMNS, as_json=args.json)
    return 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A token as lists show it: nothing that opens a door."""

    name: str
    id: str
    principal: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...]
    created_s: float
    expires_s: float | None
    expired: bool
    rate: str | None


_COLUMNS: dict[str, Callable[[Listed], str]] = {
    "NAME": lambda t: t.name,
    "ID": lambda t: t.id,
    "PRINCIPAL": lambda t: t.principal,
    "GROUPS": lambda t: ",".join(t.groups) or "-",
    "SCOPES": lambda t: ",".join(t.scopes) or "-",
    "RATE": lambda t: t.rate or "-",
    "CREATED": lambda t: _date(t.created_s),
    "EXPIRES": lambda t: "never" if t.expires_s is None else _date(t.expires_s) + (" (expired)" if t.expired else ""),
}


def _listed(t: Token) -> Listed:
    return Listed(t.name, t.id, t.principal, t.groups, t.scopes, t.created_s, t.expires_s, t.is_expired(time.time()),
                  str(t.rate) if t.rate else None)  # fmt: skip


def _show_new(token: Token, text: str, *, as_json: bool) -> None:
    if as_json:
        show_one({**asdict(_listed(token)), "token": text}, as_json=True)
        return
    print(text, flush=True)
    if sys.stderr.isatty():
        complain("this is the only time that it is shown; clients take it from SYMPHONY_TOKEN or --token-file", 0)


def _expiry(text: str) -> float:
    """Seconds since the epoch of `30d` from now, or of an ISO date; for argparse."""
    if later := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time() + int(later[1]) * _UNITS[later[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither like 30d (s, m, h, d) nor like 2027-01-31") from None


def _rate(text: str) -> Limit:
    from vllm_symphony.edge.rate import limit_of

    try:
        return limit_of(text)
    except InvalidArgument as e:
        raise argparse.ArgumentTypeError(e.message) from None


def _date(t_s: float) -> str:
    return datetime.fromtimestamp(t_s).strftime("%Y-%m-%d %H:%M")
