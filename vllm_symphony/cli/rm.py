"""symphony rm: take names away (cli/rm.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.client.client import Client
from vllm_symphony.errors import NoSuchFile

EXAMPLE = "symphony rm /kb/handbook /kb/old"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="path", help="files; each lives on while a process has it open")
    parser.add_argument("-f", "--force", action="store_true", help="do not mind files that do not exist")


async def call(client: Client, args: argparse.Namespace) -> int:
    for path in args.paths:
        try:
            await client.rm(path)
        except NoSuchFile:
            if not args.force:
                raise
    return 0
