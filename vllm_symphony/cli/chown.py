"""symphony chown: give files another owner or group (cli/chown.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony chown docs:staff /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "whose", type=_whose, metavar="OWNER[:GROUP]", help="a principal (takes scope admin), a :GROUP of yours, or both"
    )
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files and directories")
    parser.add_argument("-R", "--recursive", action="store_true", help="and all below")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


async def call(client: Client, args: argparse.Namespace) -> int:
    owner, group = args.whose
    paths = list(args.paths)
    if args.recursive:
        for top in args.paths:
            if (await client.stat(top)).kind == "dir":
                paths += [file.path for file in await client.listdir(top, recursive=True) if file.path]
    done, code = await operand.change(paths, lambda one: client.chown(one, owner=owner, group=group))
    if args.json:
        await operand.show_changed(client, done)
    return code


def _whose(text: str) -> tuple[str | None, str | None]:
    """`docs:staff`, `docs`, `:staff`; for argparse."""
    owner, _, group = text.partition(":")
    if not owner and not group:
        raise argparse.ArgumentTypeError(f"{text!r} names neither an owner nor a :group")
    return owner or None, group or None
