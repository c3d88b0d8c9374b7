"""symphony stat: show one file (cli/stat.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli.table import show_one
from vllm_symphony.client.client import Client

EXAMPLE = "symphony stat /kb/handbook"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="the file's path")
    parser.add_argument("--json", action="store_true", help="a JSON object")


async def call(client: Client, args: argparse.Namespace) -> int:
    show_one(await client.stat(args.path), as_json=args.json)
    return 0
