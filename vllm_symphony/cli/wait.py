"""symphony wait: wait until processes have ended (cli/wait.py). Ends with the exit code of the last one, as a shell's `wait`."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import table
from vllm_symphony.cli.command import complain, natural
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.viewer import EXIT_TIME_LIMIT
from vllm_symphony.client.client import Client
from vllm_symphony.errors import TimedOut

EXAMPLE = "symphony wait --timeout 5m 12 13"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pids", nargs="+", type=natural, metavar="pid", help="processes, running or ended not long ago")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that, as 30s or 5m: exit code 124")
    parser.add_argument("--json", action="store_true", help="for each a JSON line: pid, code, reason, value, error")


async def call(client: Client, args: argparse.Namespace) -> int:
    code = 0
    for pid in args.pids:
        try:
            result = await client.wait(pid, args.timeout)
        except TimedOut as e:
            return complain(str(e), EXIT_TIME_LIMIT)
        code = result.exit.code
        if args.json:
            table.line({"pid": pid, "code": code, "reason": result.exit.reason, "value": result.value, "error": result.exit.error})
        elif result.exit.error:
            complain(f"process {pid}: exit {code} ({result.exit.reason}): {result.exit.error}")
    return code
