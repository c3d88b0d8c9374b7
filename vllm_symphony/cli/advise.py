"""symphony advise: say which files' pages will be needed, and which not (cli/advise.py).

symphony advise willneed /kb/handbook.kv                 bring back what was demoted
symphony advise dontneed --tier disk --until-done /kb/old.kv   move its pages to disk, and wait
"""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client

EXAMPLE = "symphony advise dontneed --tier disk /kb/old.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("advice", choices=("willneed", "dontneed"), metavar="willneed|dontneed", help="what will become of them")
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files")
    parser.add_argument("--tier", choices=("host", "disk"), help="where pages that are not needed go (default: host)")
    parser.add_argument("--until-done", dest="done", action="store_true", help="wait until it is done")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="with --until-done: at most so long: 30s, 10m")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """A tier is where something goes away to."""
    args = parser.parse_args(words)
    if args.tier and args.advice == "willneed":
        parser.error("--tier goes with dontneed: what will be needed comes to the device")
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    async with progress("moving pages"):
        done, code = await operand.change(
            args.paths,
            lambda one: client.advise(one, args.advice, tier=args.tier or "host", wait=args.done, timeout_s=args.timeout),
        )
    if args.json:
        await operand.show_changed(client, done)
    return code
