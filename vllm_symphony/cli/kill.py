"""symphony kill: end processes, hold them or let them go on (cli/kill.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.abi.types import Signal
from vllm_symphony.cli.command import complain, natural
from vllm_symphony.client.client import Client
from vllm_symphony.errors import SymphonyError

EXAMPLE = "symphony kill -KILL 12 13"

_WORDS = {
    Signal.TERM: (("-TERM", "-15"), "cancel at the next call (the default)"),
    Signal.KILL: (("-KILL", "-9"), "end at once"),
    Signal.STOP: (("-STOP",), "hold its code and its calls until -CONT"),
    Signal.CONT: (("-CONT",), "let it go on"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    signal = parser.add_mutually_exclusive_group()
    for word, (options, what) in _WORDS.items():
        signal.add_argument(*options, dest="signal", action="store_const", const=word, help=what)
    parser.add_argument("pids", nargs="+", type=natural, metavar="pid", help="processes")


async def call(client: Client, args: argparse.Namespace) -> int:
    code = 0
    for pid in args.pids:
        try:
            await client.kill(pid, args.signal or Signal.TERM)
        except SymphonyError as e:
            code = complain(str(e))
    return code
