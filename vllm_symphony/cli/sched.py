"""symphony sched: show and choose who decides who computes (cli/sched.py). Choosing takes scope admin.

symphony sched                                     policies, principals, who waits
symphony sched set process plas:quantum=64         another policy from here on, after a restart too
symphony sched reset process                       as at the start: its flag, or the default
symphony sched weigh ci 0.5 --cap 8                a principal's part against others, and the most of its calls at once

Names of levels and policies may be cut short as long as one alone begins so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from vllm_symphony.abi.calls import SchedResult
from vllm_symphony.abi.types import PolicyStat
from vllm_symphony.cli import table
from vllm_symphony.client.client import Client
from vllm_symphony.kernel.sched import catalogue

EXAMPLE = "symphony sched set process plas:quantum=64"
ACTIONS = {"show": (), "set": ("LEVEL", "POLICY"), "reset": ("LEVEL",), "weigh": ("PRINCIPAL", "[WEIGHT]")}
_ANY = -1

POLICY_COLUMNS = {
    "LEVEL": lambda p: p.level,
    "POLICY": lambda p: p.policy,
    "PARAMETERS": lambda p: parameters(p) or "-",
    "FROM": lambda p: p.source,
    "DECIDES": lambda p: catalogue.DECIDES.get(p.level, ""),
}
PRINCIPAL_COLUMNS = {
    "PRINCIPAL": lambda p: p.principal or "-",
    "WEIGHT": lambda p: f"{p.weight:g}",
    "CAP": lambda p: "-" if p.cap is None else p.cap,
    "RUNNING": lambda p: p.num_running,
    "WAITING": lambda p: p.num_queued,
    "SERVICE": lambda p: f"{p.service:.0f}",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    usage = "; ".join(" ".join((action, *words)) for action, words in ACTIONS.items())
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="show", metavar="ACTION", help=f"{usage} (default: show)")
    parser.add_argument("words", nargs="*", metavar="WORD", help="POLICY is NAME or NAME:PARAMETER=NUMBER,...")
    parser.add_argument("--cap", type=_cap, metavar="N", help="of weigh: the most of the principal's calls that compute at once; "
                        "none: any number")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a JSON object: policies, principals, num_running, num_queued, errors")
    parser.add_argument_group("policies", described())


def described() -> str:
    """All that a server may be told, for helps."""
    return "\n".join(
        line
        for level in catalogue.LEVELS
        for line in (f"{level}: {catalogue.DECIDES[level]}", *(f"  {told}" for told in catalogue.told(level)))
    )


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Each action has its words; names become whole."""
    args = parser.parse_args(words)
    takes, given = ACTIONS[args.action], args.words
    if not len([word for word in takes if not word.startswith("[")]) <= len(given) <= len(takes):
        parser.error(f"{args.action} takes {' '.join(takes) or 'no words'}")
    if args.cap is not None and args.action != "weigh":
        parser.error("--cap is of weigh: whose calls?")
    if args.action in ("set", "reset"):
        args.level = whole(given[0], catalogue.LEVELS)
    if args.action == "set":
        name, colon, rest = given[1].partition(":")
        args.policy = catalogue.parsed(args.level, f"{whole(name, catalogue.LEVELS.get(args.level, ()))}{colon}{rest}")
    if args.action == "weigh":
        args.weight = _weight(parser, given[1]) if len(given) > 1 else None
        if args.weight is None and args.cap is None:
            parser.error("weigh takes a WEIGHT, --cap or both")
    return args


def whole(word: str, names: Iterable[str]) -> str:
    """The one name that begins so; else the word as it is."""
    found = [name for name in names if name.startswith(word)]
    return found[0] if len(found) == 1 else word


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.action == "set":
        await client.set_policy(args.level, args.policy.name, dict(args.policy.parameters))
    elif args.action == "reset":
        await client.set_policy(args.level)
    elif args.action == "weigh":
        await client.set_weight(args.words[0], args.weight, cap=args.cap)
    found = await client.sched()
    if args.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: SchedResult) -> list[str]:
    """Policies, principals, the queue, and how well costs are foreseen."""
    errors = ", ".join(f"{quantity} {error:.0%}" for quantity, error in sorted(found.errors.items()))
    principals = [*table.lines(found.principals, PRINCIPAL_COLUMNS), ""] if found.principals else []
    queue = f"{found.num_running} calls compute, {found.num_queued} wait for their turn"
    foreseen = [f"predictions are off by: {errors}"] if errors else []
    return [*table.lines(found.policies, POLICY_COLUMNS), "", *principals, queue, *foreseen]


def parameters(policy: PolicyStat) -> str:
    """`quantum=64, patience=16`."""
    return ", ".join(f"{name}={value:g}" for name, value in sorted(policy.parameters.items()))


def _cap(text: str) -> int:
    """1, 2, ... or none; for argparse."""
    if text == "none":
        return _ANY
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on, and not none")
    return int(text)


def _weight(parser: argparse.ArgumentParser, text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        parser.error(f"{text!r} is no weight: a number above 0")
    return value
