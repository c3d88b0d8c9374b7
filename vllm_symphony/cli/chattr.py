"""symphony chattr: say how files and directories are kept, and how long (cli/chattr.py).

symphony chattr --durable pages /kb          what is in it survives a restart, with its computed pages
symphony chattr --ttl 1d /tmp/answers        what is made in it goes after a day
symphony chattr --expires 2h /kb/draft.kv    this one goes in two hours
"""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.cli.moment import span
from vllm_symphony.client.client import Client

EXAMPLE = "symphony chattr --durable pages /kb"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files and directories")
    parser.add_argument("--durable", choices=("none", "tokens", "pages", "inherit"),
                        help="of a directory: what of the files in it outlives the server")  # fmt: skip
    parser.add_argument("--expires", type=_time, metavar="TIME", help="of a file: it goes after that: 2h, 30d; never")
    parser.add_argument("--ttl", type=_time, metavar="TIME", help="of a directory: what is made in it goes after that; never")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """At least one thing is to change."""
    args = parser.parse_args(words)
    if args.durable is None and args.expires is None and args.ttl is None:
        parser.error("nothing to change: give --durable, --expires or --ttl")
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    durable = "" if args.durable == "inherit" else args.durable
    done, code = await operand.change(
        args.paths, lambda one: client.chattr(one, durable=durable, expires_s=args.expires, ttl_s=args.ttl)
    )
    if args.json:
        await operand.show_changed(client, done)
    return code


def _time(text: str) -> float:
    """Seconds, `never` is 0; for argparse."""
    return 0.0 if text == "never" else span(text)
