"""symphony recv: receive messages from a channel (cli/recv.py).

symphony recv ops/jobs               the next one; it is taken from the queue
symphony recv -f news                all from now on, until Ctrl-C
"""

from __future__ import annotations

import argparse

from vllm_symphony.cli import letter
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import span
from vllm_symphony.client.client import Client

EXAMPLE = "symphony recv -f news"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the channel: namespace/name; without a slash in your own namespace")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    how_many.add_argument("-n", "--count", type=natural, default=1, metavar="N", help="so many messages (default: 1)")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="fail when none comes for that long, as 30s or 5m")
    parser.add_argument("--json", action="store_true", help="each message as a JSON line: seq, text or base64, pid, principal")


async def call(client: Client, args: argparse.Namespace) -> int:
    count = None if args.follow else args.count
    if count != 0:
        async for message in client.recv(args.name, count=count, timeout_s=args.timeout):
            letter.show(message, as_json=args.json)
    return 0
