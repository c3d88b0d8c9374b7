"""symphony cat: print a file's text or tokens (cli/cat.py)."""

from __future__ import annotations

import argparse
import json

from vllm_symphony.cli.command import natural
from vllm_symphony.cli.operand import path
from vllm_symphony.client.client import Client

EXAMPLE = "symphony cat /kb/handbook.kv --tokens --count 16"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=path, metavar="PATH", help="the file")
    parser.add_argument("--tokens", action="store_true", help="a line for each token, its position and its id, instead of text")
    parser.add_argument("--offset", type=natural, default=0, metavar="N", help="begin at token N")
    parser.add_argument("--count", type=natural, metavar="N", help="at most N tokens")
    parser.add_argument("--json", action="store_true", help="tokens, positions, length and text as a JSON object")


async def call(client: Client, args: argparse.Namespace) -> int:
    file = await client.cat(args.path, offset=args.offset, count=args.count, text=not args.tokens)
    if args.json:
        print(json.dumps({"tokens": file.tokens, "positions": file.positions, "length": file.length, "text": file.text}))
    elif args.tokens:
        for position, token in zip(file.positions, file.tokens, strict=True):
            print(f"{position}\t{token}")
    else:
        print(file.text)
    return 0
