"""symphony sync: wait until files are on disk (cli/sync.py)."""

from __future__ import annotations

import argparse
import json

from vllm_symphony.cli import operand, size
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client

EXAMPLE = "symphony sync /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", type=operand.path, metavar="PATH", help="files (default: all that are yours)")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that: 30s, 10m")
    parser.add_argument("--json", action="store_true", help="a JSON object: num_files, num_bytes")


async def call(client: Client, args: argparse.Namespace) -> int:
    num_files = num_bytes = 0

    async def write(one: str | None) -> None:
        nonlocal num_files, num_bytes
        result = await client.sync(one, timeout_s=args.timeout)
        num_files += result.num_files
        num_bytes += result.num_bytes

    code = 0
    async with progress("writing to disk"):
        if args.paths:
            _, code = await operand.change(args.paths, write)
        else:
            await write(None)
    if args.json:
        print(json.dumps({"num_files": num_files, "num_bytes": num_bytes}))
    else:
        print(f"{num_files:,} file{'' if num_files == 1 else 's'} on disk, {size.shown(num_bytes)} of pages written for it")
    return code
