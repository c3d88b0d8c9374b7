"""symphony ln: give a file a further name (cli/ln.py). Both are as good as each other; there are no symbolic links."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony ln /kb/handbook.kv /home/agents/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=operand.path, metavar="PATH", help="the file, by a name that it has")
    parser.add_argument("name", type=operand.path, metavar="NAME", help="the further name, or a directory for it")
    parser.add_argument("-f", "--force", action="store_true", help="a file that has the name loses it")
    parser.add_argument("--json", action="store_true", help="what stat shows of it")


async def call(client: Client, args: argparse.Namespace) -> int:
    ((_, name),) = await operand.destinations(client, [args.path], args.name)
    await client.link(args.path, name, replace=args.force)
    if args.json:
        await operand.show_changed(client, [name])
    return 0
