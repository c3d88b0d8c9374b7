"""symphony setfattr: set or take away extended attributes (cli/setfattr.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = 'symphony setfattr -n source -v "handbook, 3rd edition" /kb/handbook.kv'


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-n", "--name", metavar="NAME", help="set this attribute")
    what.add_argument("-x", "--remove", metavar="NAME", help="take this attribute away")
    parser.add_argument("-v", "--value", default="", metavar="TEXT", help="its value (default: empty)")
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files and directories")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


async def call(client: Client, args: argparse.Namespace) -> int:
    async def set_one(one: str) -> None:
        if args.remove is not None:
            await client.removexattr(one, args.remove)
        else:
            await client.setxattr(one, args.name, args.value)

    done, code = await operand.change(args.paths, set_one)
    if args.json:
        await operand.show_changed(client, done)
    return code
