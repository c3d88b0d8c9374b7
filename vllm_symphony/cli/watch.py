"""symphony watch: tell what happens to files, until Ctrl-C (cli/watch.py).

12:01:07.123456  modify  /kb/handbook.kv
12:01:07.125012  move    /kb/draft.kv -> /kb/handbook.kv
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import FileEvent
from vllm_symphony.cli.moment import clock
from vllm_symphony.cli.operand import path
from vllm_symphony.cli.table import line
from vllm_symphony.client.client import Client

EXAMPLE = "symphony watch /kb"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", type=path, default="/", metavar="PATH", help="a file or directory (default: /)")
    parser.add_argument("-s", "--shallow", action="store_true", help="of a directory only its own entries, not all below")
    parser.add_argument("--json", action="store_true", help="each event as a JSON line")


async def call(client: Client, args: argparse.Namespace) -> int:
    async for part in client.watch(args.path, recursive=not args.shallow):
        if part.missing:
            if args.json:
                line({"missing": part.missing})
            else:
                print(f"... {part.missing:,} events are missing: this was read too slowly", flush=True)
        for event in part.events:
            if args.json:
                line(asdict(event))
            else:
                print(text(event), flush=True)
    return 0


def text(event: FileEvent) -> str:
    """One line."""
    to = f" -> {plain(event.new_path)}" if event.new_path else ""
    detail = f"  ({plain(event.detail)})" if event.detail else ""
    return f"{clock(event.t_ns)}  {event.kind:<6}  {plain(event.path)}{to}{detail}"
