"""symphony ls: list named files (cli/ls.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli.moment import age
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony ls /kb/"

COLUMNS = {
    "TOKENS": lambda f: f.length,
    "COMPUTED": lambda f: f.frontier,
    "PAGES": lambda f: f.num_pages,
    "OPEN": lambda f: f.num_open,
    "OWNER": lambda f: f.owner,
    "CHANGED": lambda f: f"{age(f.modified_ns)} ago",
    "PATH": lambda f: f.path,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="/", help="only paths that begin so (default: all)")
    parser.add_argument("--json", action="store_true", help="a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    show(await client.ls(args.prefix), COLUMNS, as_json=args.json)
    return 0
