"""symphony put: make a file of text (cli/put.py).

symphony put /kb/rules.kv "Be brief."
symphony put /kb/handbook.kv - --compute < handbook.txt        its pages too
symphony put /kb/handbook.kv --replace @handbook.txt           readers see the old one or the new one
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from vllm_symphony import lip
from vllm_symphony.cli.mode import octal
from vllm_symphony.cli.operand import path
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client

EXAMPLE = 'symphony put /kb/rules.kv "Be brief."'


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=path, metavar="PATH", help="the new file")
    parser.add_argument(
        "text",
        nargs="?",
        default="-",
        type=_text,
        metavar="TEXT",
        help="what it holds; - (the default): stdin, @FILE: a file of yours",
    )
    parser.add_argument("--mode", type=octal, default=0o644, metavar="MODE", help="its rights, less the bits 022 (default: 644)")
    parser.add_argument("--replace", action="store_true", help="a file that has the name loses it, at once")
    parser.add_argument("--compute", action="store_true", help="also compute its pages, so that the first reader need not")
    parser.add_argument("--json", action="store_true", help="what stat shows of it")


async def call(client: Client, args: argparse.Namespace) -> int:
    async with progress(f"making {args.path}"), client.session(name="put"), lip.open(text=args.text, mode=args.mode) as file:
        if args.compute and file.length:
            await file.forward(top_k=0, keep="none")
        await file.link(args.path, replace=args.replace)
    stat = await client.stat(args.path)
    print(json.dumps(asdict(stat), indent=2) if args.json else f"{args.path}: {stat.length:,} tokens")
    return 0


def _text(word: str) -> str:
    """What the word stands for; for argparse."""
    try:
        if word == "-":
            return sys.stdin.read()
        return Path(word[1:]).read_text(encoding="utf-8") if word.startswith("@") else word
    except (OSError, UnicodeDecodeError) as e:
        raise argparse.ArgumentTypeError(f"cannot read {'stdin' if word == '-' else word[1:]}: {e}") from None
