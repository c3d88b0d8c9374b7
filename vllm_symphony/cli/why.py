"""symphony why: what a process waits for (cli/why.py).

thread 0 (main): forward(fd=3 n=1) for 1.2 s: waits for pages: needs 12 pages, 3 are free
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import ThreadWait
from vllm_symphony.cli.command import natural
from vllm_symphony.client.client import Client

EXAMPLE = "symphony why 12"

CAUSES = {
    "running": "its own code runs",
    "batch": "the engine works on it",
    "pages": "waits for pages",
    "queue": "waits for its turn",
    "lock": "waits for a file that somebody else holds",
    "disk": "waits for the disk",
    "tokenizer": "waits for the tokenizer",
    "child": "waits for another process",
    "timer": "waits for time to pass",
    "reader": "waits until what it streams is read",
    "client": "waits for its client",
    "channel": "waits for a message, or for room for one",
    "tool": "a tool works for it",
    "stopped": "it was sent STOP",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=natural, help="the process")
    parser.add_argument("--json", action="store_true", help="a JSON object: process, threads")


async def call(client: Client, args: argparse.Namespace) -> int:
    result = await client.why(args.pid)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
        return 0
    process = result.process
    if process.exit is not None:
        print(f"process {process.pid} ({plain(process.name)}) has ended: exit {process.exit.code}, {process.exit.reason}")
    now_ns = time.time_ns()
    for thread in result.threads:
        print(text(thread, now_ns))
    return 0


def text(thread: ThreadWait, now_ns: int) -> str:
    """One line."""
    name = f" ({thread.name})" if thread.name else ""
    call = f" {thread.op}({thread.args})" if thread.op else ""
    cause = CAUSES.get(thread.cause, thread.cause)
    detail = f": {thread.detail}" if thread.detail else ""
    return plain(f"thread {thread.tid}{name}:{call} for {max(0, now_ns - thread.since_ns) / 1e9:.1f} s: {cause}{detail}")
