"""symphony ls: list directories and files (cli/ls.py).

symphony ls                 names in /
symphony ls -l /kb          -rw-r----- docs staff 3,912 tokens 123 pages gpu,disk exact handbook.kv
symphony ls -lR /home       and all below it, a directory at a time
symphony ls -ld /kb         the directory itself
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import FileStat
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.listing import long
from vllm_symphony.cli.operand import name_of, path
from vllm_symphony.client.client import Client
from vllm_symphony.errors import SymphonyError

EXAMPLE = "symphony ls -l /kb"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", type=path, metavar="PATH", help="files and directories (default: /)")
    parser.add_argument("-l", "--long", action="store_true", help="rights, owner, group, tokens, pages, where they are, lineage")
    parser.add_argument("-R", "--recursive", action="store_true", help="and all below")
    parser.add_argument("-d", "--directory", action="store_true", help="directories themselves, not what is in them")
    parser.add_argument("--json", action="store_true", help="a JSON array of all that is listed")


async def call(client: Client, args: argparse.Namespace) -> int:
    plain_files: list[FileStat] = []
    listed: list[tuple[str, Sequence[FileStat]]] = []
    code = 0
    for one in args.paths or ["/"]:
        try:
            stat = await client.stat(one)
            if stat.kind != "dir" or args.directory:
                plain_files.append(stat)
            else:
                listed += _by_directory(one, await client.listdir(one, recursive=args.recursive), args.recursive)
        except SymphonyError as e:
            code = complain(str(e))
    if args.json:
        print(json.dumps([asdict(file) for file in (*plain_files, *(f for _, files in listed for f in files))], indent=2))
        return code
    _print(plain_files, [file.path or "-" for file in plain_files], args.long)
    for i, (directory, files) in enumerate(listed):
        if len(listed) > 1 or plain_files:
            print(f"{chr(10) if i or plain_files else ''}{plain(directory)}:")
        _print(files, [name_of(file.path or "-") for file in files], args.long)
    return code


def _by_directory(top: str, files: Sequence[FileStat], recursive: bool) -> list[tuple[str, Sequence[FileStat]]]:
    """What is in each directory; of those that are empty or closed the name alone."""
    if not recursive:
        return [(top, files)]
    inside: dict[str, list[FileStat]] = {top: []}
    for file in files:
        where = file.path or "/"
        inside.setdefault(where.rpartition("/")[0] or "/", []).append(file)
        if file.kind == "dir":
            inside.setdefault(where, [])
    return list(inside.items())


def _print(files: Sequence[FileStat], names: Sequence[str], as_long: bool) -> None:
    for line in long(files, names) if as_long else map(plain, names):
        print(line)
