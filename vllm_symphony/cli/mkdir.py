"""symphony mkdir: make directories (cli/mkdir.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.cli.mode import octal
from vllm_symphony.client.client import Client

EXAMPLE = "symphony mkdir -p /kb/law/eu --durable pages"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="the new directories")
    parser.add_argument(
        "-p", "--parents", action="store_true", help="those above that are missing too; one that exists is no error"
    )
    parser.add_argument("-m", "--mode", type=octal, default=0o777, metavar="MODE", help="rights, less the bits 022 (default: 777)")
    parser.add_argument("--durable", choices=("none", "tokens", "pages"), help="what of the files in it outlives the server")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


async def call(client: Client, args: argparse.Namespace) -> int:
    async def make(one: str) -> None:
        await client.mkdir(one, mode=args.mode, parents=args.parents)
        if args.durable is not None:
            await client.chattr(one, durable=args.durable)

    done, code = await operand.change(args.paths, make)
    if args.json:
        await operand.show_changed(client, done)
    return code
