"""symphony attach: look at a process that runs, as `symphony run` does (cli/attach.py).

    symphony attach 12                     what it printed so far, then what it prints
    symphony attach 12 --from 100          from event 100 on

Ctrl-C stops looking and the process goes on, unless `--kill-on-interrupt`.
"""

from __future__ import annotations

import argparse

from vllm_symphony.cli import viewer
from vllm_symphony.cli.command import natural
from vllm_symphony.client.client import Client
from vllm_symphony.client.run import Run

EXAMPLE = "symphony attach 12"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=natural, help="the process, running or ended not long ago")
    parser.add_argument("--from", dest="from_seq", type=natural, default=1, metavar="N", help="the first event shown (default: 1)")
    parser.add_argument("--kill-on-interrupt", action="store_true", help="Ctrl-C cancels it and again kills it, as in run")
    viewer.arguments(parser)


async def call(client: Client, args: argparse.Namespace) -> int:
    async def pid() -> int:
        return int(args.pid)

    run = Run(client, pid, name="", from_seq=args.from_seq)
    run.detach()
    interrupt = viewer.Interrupt.END if args.kill_on_interrupt else viewer.Interrupt.DETACH
    return await viewer.view(client, run, args, interrupt)
