"""symphony mv: move or rename files and directories, atomically (cli/mv.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client
from vllm_symphony.errors import FileExists

EXAMPLE = "symphony mv /kb/draft.kv /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=operand.path, metavar="SOURCE", help="files and directories")
    parser.add_argument("target", type=operand.path, metavar="TARGET", help="the new path, or a directory for all of them")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="refuse where the name is taken, instead of replacing")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


async def call(client: Client, args: argparse.Namespace) -> int:
    target_of = dict(await operand.destinations(client, args.sources, args.target))

    async def move(one: str) -> None:
        if args.no_clobber and await operand.stat_if_there(client, target_of[one]) is not None:
            raise FileExists(f"{target_of[one]} is there already", path=target_of[one])
        await client.mv(one, target_of[one])

    done, code = await operand.change(target_of, move)
    if args.json:
        await operand.show_changed(client, [target_of[one] for one in done])
    return code
