"""symphony rmdir: take empty directories away (cli/rmdir.py)."""

from __future__ import annotations

import argparse
import json

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony rmdir /kb/law"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="empty directories")
    parser.add_argument("--json", action="store_true", help="the paths that are gone, a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    gone, code = await operand.change(args.paths, client.rmdir)
    if args.json:
        print(json.dumps(gone, indent=2))
    return code
