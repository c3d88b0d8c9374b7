"""symphony strace: the event log, a line for each system call (cli/strace.py).

12:01:07.123456  3/0  forward(fd=3 n=1 top_k=20) = ok  <0.012345>  [step 41]
when it began    pid/thread  call and what it took    result  seconds  engine steps that worked on it
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vllm_symphony.abi.types import CallRecord
from vllm_symphony.cli import table
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import clock
from vllm_symphony.client.client import Client

EXAMPLE = "symphony strace -f 12"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", nargs="?", type=natural, help="only this process (default: all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new calls; with a pid until it ends")
    parser.add_argument("--json", action="store_true", help="each call as a JSON line")


async def call(client: Client, args: argparse.Namespace) -> int:
    async for part in client.strace(args.pid, follow=args.follow):
        for record in part.records:
            if args.json:
                table.line(asdict(record))
            else:
                print(text(record), flush=True)
    return 0


def text(record: CallRecord) -> str:
    """One line."""
    seconds = (record.t_end_ns - record.t_start_ns) / 1e9
    line = f"{clock(record.t_start_ns)}  {record.pid}/{record.tid}  {record.op}({record.args}) = {record.result}  <{seconds:.6f}>"
    if record.step_first is None:
        return line
    steps = str(record.step_first) if record.step_last == record.step_first else f"{record.step_first}-{record.step_last}"
    return f"{line}  [step {steps}]"
