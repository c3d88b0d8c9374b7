"""symphony limits: show or set what programs may use (cli/limits.py).

symphony limits                                your own: all your programs together
symphony limits 12                             of a process, with all that it spawns
symphony limits 12 --set tokens=1000           lower them
symphony limits --principal ci --set cpu=1h    of somebody; `none` takes a limit away
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from vllm_symphony.abi.calls import RlimitResult
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.limit import NAMES, limit, limits_of, shown
from vllm_symphony.client.client import Client

EXAMPLE = "symphony limits 12 --set tokens=20k --set wall=10m"


def arguments(parser: argparse.ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("pid", nargs="?", type=natural, help="a process, with all that it spawns")
    whose.add_argument("--principal", metavar="NAME", help="all programs of that principal (scope admin)")
    parser.add_argument("--set", dest="given", action="append", type=limit, metavar="NAME=VALUE", help="lower a limit; "
                        "scope admin may raise it; of a principal VALUE may be none; may be repeated")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a JSON object: limits, used")


async def call(client: Client, args: argparse.Namespace) -> int:
    if (wanted := limits_of(args.given)) is not None:
        await client.set_limits(wanted, args.pid, principal=args.principal)
    found = await client.limits(args.pid, principal=args.principal)
    if args.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: RlimitResult) -> list[str]:
    """A line for each limit that there is, or of which something is used."""
    rows = [("LIMIT", "USED", "OF")]
    for short, name in NAMES.items():
        most, used = getattr(found.limits, name), getattr(found.used, name)
        if most is not None or used:
            rows.append((short, shown(name, used), shown(name, most)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [f"{name:<{widths[0]}}  {used:>{widths[1]}}  {most:>{widths[2]}}" for name, used, most in rows]
