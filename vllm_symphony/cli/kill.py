"""symphony kill: end processes (cli/kill.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli.command import natural
from vllm_symphony.client.client import Client

EXAMPLE = "symphony kill -KILL 12 13"


def arguments(parser: argparse.ArgumentParser) -> None:
    signal = parser.add_mutually_exclusive_group()
    signal.add_argument("-TERM", dest="signal", action="store_const", const="TERM", help="cancel at the next call (the default)")
    signal.add_argument("-KILL", "-9", dest="signal", action="store_const", const="KILL", help="end at once")
    parser.add_argument("pids", nargs="+", type=natural, metavar="pid", help="processes")


async def call(client: Client, args: argparse.Namespace) -> int:
    for pid in args.pids:
        await client.kill(pid, args.signal or "TERM")
    return 0
