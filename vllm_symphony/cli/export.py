"""symphony export: pack a file of the server into one of yours (cli/export.py). `symphony import` unpacks it, here or elsewhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vllm_symphony.cli import operand, size
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client
from vllm_symphony.errors import FileExists

EXAMPLE = "symphony export /kb/handbook.kv handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=operand.path, metavar="PATH", help="the file at the server")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="yours (default: the path's last part)")
    parser.add_argument(
        "--no-pages", action="store_true", help="tokens and attributes only: small, computed again where it is imported"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that: 30s, 10m")
    parser.add_argument("--json", action="store_true", help="a JSON object: file, num_bytes")


async def call(client: Client, args: argparse.Namespace) -> int:
    file = args.file or Path(operand.name_of(args.path) or "root")
    if file.exists() and not args.force:
        raise FileExists(f"{file} is there already (-f replaces it)", path=str(file))
    moved = size.Moved()
    async with progress(f"exporting {args.path}", moved.text):
        num_bytes = await client.export_file(args.path, file, pages=not args.no_pages, progress=moved, timeout_s=args.timeout)
    print(json.dumps({"file": str(file), "num_bytes": num_bytes}) if args.json else f"{file}: {size.shown(num_bytes)}")
    return 0
