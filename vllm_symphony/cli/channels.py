"""symphony channels: list, make and remove channels (cli/channels.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import mode
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony channels --create news --kind topic --overflow drop_oldest"

COLUMNS = {
    "MODE": lambda c: mode.shown(c.mode, "file"),
    "OWNER": lambda c: c.owner,
    "KIND": lambda c: c.kind,
    "WAITING": lambda c: c.queued,
    "CAPACITY": lambda c: c.capacity,
    "OVERFLOW": lambda c: c.overflow,
    "RECEIVERS": lambda c: c.receivers,
    "SENDERS": lambda c: c.senders,
    "NAME": lambda c: c.name,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only those whose namespace/name begins so")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--create", metavar="NAME", help="make a channel; without a slash in your own namespace")
    change.add_argument("--remove", metavar="NAME", help="take a channel's name away; who has it open goes on")
    new = parser.add_argument_group("of a new channel")
    new.add_argument("--kind", choices=("queue", "topic"), default="queue", help="each message to one, or to all who listen")
    new.add_argument("--capacity", type=natural, default=64, metavar="N", help="messages that a queue holds (default: 64)")
    new.add_argument(
        "--overflow", choices=("block", "drop_oldest", "drop_new"), default="block", help="of a topic, when one is full"
    )
    new.add_argument("--mode", type=mode.octal, default=0o600, metavar="MODE", help="who may receive (r), send (w) (default: 600)")
    parser.add_argument("--json", action="store_true", help="a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.create is not None:
        await client.create_channel(args.create, kind=args.kind, mode=args.mode, capacity=args.capacity, overflow=args.overflow)
    elif args.remove is not None:
        await client.unlink_channel(args.remove)
    else:
        show(await client.channels(args.prefix), COLUMNS, as_json=args.json)
    return 0
