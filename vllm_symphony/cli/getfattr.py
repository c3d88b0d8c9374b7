"""symphony getfattr: show extended attributes (cli/getfattr.py)."""

from __future__ import annotations

import argparse
import json

from vllm_symphony.abi.plain import plain
from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony getfattr -n source /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files and directories")
    parser.add_argument("-n", "--name", metavar="NAME", help="only this one, and of it the value alone")
    parser.add_argument("--json", action="store_true", help="a JSON object: path -> attributes")


async def call(client: Client, args: argparse.Namespace) -> int:
    found: dict[str, dict[str, str]] = {}

    async def get(one: str) -> None:
        if args.name is None:
            found[one] = dict(await client.listxattr(one))
        else:
            found[one] = {args.name: await client.getxattr(one, args.name)}

    _, code = await operand.change(args.paths, get)
    if args.json:
        print(json.dumps(found, indent=2))
        return code
    for one, attributes in found.items():
        if len(args.paths) > 1:
            print(f"# {plain(one)}")
        for name, value in attributes.items():
            print(plain(value) if args.name is not None else f"{plain(name)}={plain(value)}")
    return code
