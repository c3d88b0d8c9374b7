"""symphony cp: copy files (cli/cp.py). A copy is a fork: no work, and no new pages until one of the two is written."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony cp /kb/handbook.kv /home/agents/draft.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=operand.path, metavar="SOURCE", help="files")
    parser.add_argument("target", type=operand.path, metavar="TARGET", help="the copy's path, or a directory for all of them")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="refuse where the name is taken, instead of replacing")
    parser.add_argument("--json", action="store_true", help="what stat shows of the copies")


async def call(client: Client, args: argparse.Namespace) -> int:
    target_of = dict(await operand.destinations(client, args.sources, args.target))
    done, code = await operand.change(target_of, lambda one: client.copy(one, target_of[one], replace=not args.no_clobber))
    if args.json:
        await operand.show_changed(client, [target_of[one] for one in done])
    return code
