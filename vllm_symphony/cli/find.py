"""symphony find: look for files by what they are and what they say (cli/find.py).

symphony find /kb --name "*.kv" --older 30d
symphony find --text "horn OR fog"          the best match first, with where it matches
symphony find /kb --xattr language=en --lineage exact -l
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from vllm_symphony.abi.plain import plain
from vllm_symphony.cli.command import complain, natural
from vllm_symphony.cli.listing import long
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.operand import path
from vllm_symphony.client.client import Client

EXAMPLE = 'symphony find /kb --name "*.kv" --text "horn OR fog"'
_KINDS = {"f": "file", "d": "dir"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", type=path, default="/", metavar="PATH", help="where to look (default: /)")
    parser.add_argument("--name", default="", metavar="GLOB", help="the last part of the path fits, as in *.kv")
    parser.add_argument("--owner", default="", metavar="P", help="it belongs to this principal")
    parser.add_argument("--type", choices=("f", "d"), help="files, or directories (default: both)")
    parser.add_argument(
        "--lineage", default="", choices=("exact", "pruned", "approximate"), help="how its keys and values were made"
    )
    parser.add_argument("--xattr", type=_xattr, action="append", default=[], metavar="NAME=GLOB",
                        help="it has this attribute, and its value fits; may be repeated")  # fmt: skip
    parser.add_argument("--min-tokens", type=natural, metavar="N", help="at least so long")
    parser.add_argument("--max-tokens", type=natural, metavar="N", help="at most so long")
    parser.add_argument("--older", type=span, metavar="TIME", help="its tokens changed at least so long ago: 30m, 2h, 30d")
    parser.add_argument("--newer", type=span, metavar="TIME", help="at most so long ago")
    parser.add_argument("--text", default="", metavar="WORDS", help="its text has them, as in SQLite's FTS5; the best match first")
    parser.add_argument("--limit", type=natural, default=1000, metavar="N", help="show at most so many (default: 1000)")
    parser.add_argument("-l", "--long", action="store_true", help="as ls -l")
    parser.add_argument("--json", action="store_true", help="a JSON object: files, total, snippets")


async def call(client: Client, args: argparse.Namespace) -> int:
    found = await client.find(
        args.path, name=args.name, owner=args.owner, kind=_KINDS.get(args.type or "", ""), fidelity=args.lineage,
        xattr=dict(args.xattr), min_length=args.min_tokens, max_length=args.max_tokens, min_age_s=args.older, max_age_s=args.newer,
        text=args.text, limit=args.limit,
    )  # fmt: skip
    if args.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    paths = [file.path or "-" for file in found.files]
    lines = long(found.files, paths) if args.long else list(map(plain, paths))
    for i, line in enumerate(lines):
        print(line)
        if i < len(found.snippets):
            snippet = " ".join(found.snippets[i].split())
            print(f"    {plain(snippet)}")
    if found.total > len(lines):
        complain(f"{found.total - len(lines)} more match (--limit {args.limit})")
    return 0


def _xattr(text: str) -> tuple[str, str]:
    """`NAME=GLOB`, or `NAME` for any value; for argparse."""
    name, _, glob = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not like language=en")
    return name, glob or "*"
