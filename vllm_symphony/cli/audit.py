"""symphony audit: who did what at the server, and who was not let in (cli/audit.py).

    symphony audit                                     all that is kept
    symphony audit -f --action kill,spawn              go on as lines are written
    symphony audit --since 1h --outcome denied --json

Reads the files in the state directory: for the server's own user only, whether or not a server runs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_symphony.cli.moment import moment
from vllm_symphony.errors import AccessDenied

EXAMPLE = "symphony audit --since 1h --outcome denied"

DENIED = ("EACCES", "EPERM", "UNAUTHENTICATED")
LOOK_S = 0.25  # how often `-f` looks
_FIRST = ("t_s", "door", "principal", "action", "target", "outcome")  # the others follow as name=value


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on as lines are written, until Ctrl-C")
    parser.add_argument("--since", metavar="WHEN", type=moment, help="only lines since then: 10m (s, m, h, d) or "
                        "2026-01-31T12:00")  # fmt: skip
    parser.add_argument("--principal", metavar="P", type=_words, help="only of these, with commas between")
    parser.add_argument("--action", metavar="A", type=_words, help="only these, as kill,spawn")
    parser.add_argument("--outcome", metavar="O", type=_words, help="only what ended so, as OK,EPERM; `denied` is "
                        f"{','.join(DENIED)}")  # fmt: skip
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="the server's (default: $SYMPHONY_STATE_DIR, else "
                        "$XDG_STATE_HOME/symphony, else ~/.local/state/symphony)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="lines as they are kept")


def start(args: argparse.Namespace) -> int:
    from vllm_symphony.edge.state_dir import default_state_dir

    state_dir = (args.state_dir or default_state_dir()).expanduser().absolute()
    for line in _lines(state_dir, args.follow):
        found = _read(line)
        if found is not None and _wanted(found, args):
            print(line if args.json else _shown(found), flush=args.follow)
    return 0


def _lines(state_dir: Path, follow: bool) -> Iterator[str]:
    """The lines that are kept, oldest first; then those that come, over all moves to a new file."""
    from vllm_symphony.edge.audit import FILE, FOLDER, files

    newest, file = state_dir / FOLDER / FILE, None
    try:
        for path in files(state_dir):
            if file:
                file.close()
            file = path.open(errors="replace")
            yield from _whole(file)
        while follow:
            if file and (line := file.readline()):
                yield line.rstrip("\n")  # a line is written at once
            elif newest.exists() and (file is None or newest.stat().st_ino != os.fstat(file.fileno()).st_ino):
                if file:
                    yield from _whole(file)
                    file.close()
                file = newest.open(errors="replace")
            else:
                time.sleep(LOOK_S)
    except OSError as e:
        raise AccessDenied(f"cannot read the audit log {newest}: {e.strerror}", path=str(newest)) from None
    finally:
        if file:
            file.close()


def _whole(file: Any) -> Iterator[str]:
    for line in file:
        yield line.rstrip("\n")


def _read(line: str) -> dict[str, Any] | None:
    """None for what is no line of ours: a full disk took half of one."""
    try:
        found = json.loads(line)
        return found if isinstance(found, dict) and all(name in found for name in _FIRST) else None
    except ValueError:
        return None


def _wanted(found: dict[str, Any], args: argparse.Namespace) -> bool:
    outcomes = DENIED if args.outcome == {"denied"} else args.outcome
    return (
        (args.since is None or found["t_s"] * 1e9 >= args.since)
        and (not args.principal or found["principal"] in args.principal)
        and (not args.action or found["action"] in args.action)
        and (not outcomes or found["outcome"] in outcomes)
    )


def _shown(found: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(found["t_s"]).strftime("%Y-%m-%d %H:%M:%S")
    rest = " ".join(f"{name}={_word(value)}" for name, value in found.items() if name not in _FIRST)
    words = (when, *(_word(found[name]) for name in _FIRST[1:]), rest)
    return " ".join(word for word in words if word)


def _word(value: object) -> str:
    """Nothing that a caller chose moves a terminal's cursor."""
    text = str(value) if value != "" else "-"
    return text if text.isprintable() and " " not in text else json.dumps(text)


def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in text.split(",") if word)
