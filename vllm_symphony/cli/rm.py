"""symphony rm: take names away (cli/rm.py). A file lives on while a process has it open or another name leads to it."""

from __future__ import annotations

import argparse
import json

from vllm_symphony.cli.command import complain
from vllm_symphony.cli.operand import path
from vllm_symphony.client.client import Client
from vllm_symphony.errors import NoSuchFile, SymphonyError

EXAMPLE = "symphony rm /kb/handbook.kv /kb/old.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=path, metavar="PATH", help="files; each lives on while a process has it open")
    parser.add_argument("-r", "--recursive", action="store_true", help="directories too, with all that is in them")
    parser.add_argument("-f", "--force", action="store_true", help="do not mind what does not exist")
    parser.add_argument("--json", action="store_true", help="the paths that are gone, a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    gone: list[str] = []
    code = 0
    for one in args.paths:
        try:
            if args.recursive and (await client.stat(one)).kind == "dir":
                code = max(code, await _tree(client, one, gone))
            else:
                await client.rm(one)
                gone.append(one)
        except NoSuchFile as e:
            code = code if args.force else complain(str(e))
        except SymphonyError as e:
            code = complain(str(e))
    if args.json:
        print(json.dumps(gone, indent=2))
    return code


async def _tree(client: Client, top: str, gone: list[str]) -> int:
    """All below a directory, deepest first, and it; what cannot go is told."""
    code = 0
    entries = [(file.path or "", file.kind) for file in await client.listdir(top, recursive=True)]
    for one, kind in [*sorted(entries, reverse=True), (top, "dir")]:
        try:
            await (client.rmdir(one) if kind == "dir" else client.rm(one))
            gone.append(one)
        except NoSuchFile:
            pass  # somebody else was faster
        except SymphonyError as e:
            code = complain(str(e))
    return code
