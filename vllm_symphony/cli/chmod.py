"""symphony chmod: set the rights of files and directories (cli/chmod.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import mode, operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony chmod g+r,o= /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mode", type=mode.change, metavar="MODE", help="octal (640, 1777) or symbolic (u+rw,go-w,g=r,a+X,+t,g+s)")
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files and directories")
    parser.add_argument("-R", "--recursive", action="store_true", help="and all below")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """`-w` and its like are a mode, not options."""
    modes = [i for i, word in enumerate(words) if word[:1] == "-" and word[1:] and not set(word[1:]) - set("rwxXst")]
    if modes and "--" not in words:
        i = modes[0]
        words = [*words[:i], f"a{words[i]}", *words[i + 1 :]]
    return parser.parse_args(words)


async def call(client: Client, args: argparse.Namespace) -> int:
    async def set_rights(one: str) -> None:
        stat = await client.stat(one)
        await client.chmod(one, args.mode(stat.mode, stat.kind))

    paths = list(args.paths)
    if args.recursive:
        for top in args.paths:
            if (await client.stat(top)).kind == "dir":
                paths += [file.path for file in await client.listdir(top, recursive=True) if file.path]
    done, code = await operand.change(paths, set_rights)
    if args.json:
        await operand.show_changed(client, done)
    return code
