"""symphony import: make a file of what `symphony export` packed (cli/import_file.py).

Its pages are taken if this server signed them, or with `--trust`; else they are computed again from its tokens.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vllm_symphony.cli import operand, size
from vllm_symphony.cli.mode import octal
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client

EXAMPLE = "symphony import handbook.kv /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="yours")
    parser.add_argument("path", type=operand.path, metavar="PATH", help="the new file at the server")
    parser.add_argument("--mode", type=octal, default=0o600, metavar="MODE", help="its rights (default: 600)")
    parser.add_argument("--trust", action="store_true", help="take its pages whoever signed them (scope admin)")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that: 30s, 10m")
    parser.add_argument("--json", action="store_true", help="a JSON object: file (as stat shows it), trusted")


async def call(client: Client, args: argparse.Namespace) -> int:
    moved = size.Moved()
    async with progress(f"importing {args.file}", moved.text):
        result = await client.import_file(
            args.file, args.path, mode=args.mode, trust=args.trust, progress=moved, timeout_s=args.timeout
        )
    if args.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        pages = "with its pages" if result.trusted else "its pages will be computed again"
        print(f"{args.path}: {result.file.length:,} tokens, {pages}")
    return 0
