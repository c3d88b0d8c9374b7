"""symphony pin: keep files' pages on the device (cli/pin.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.client.client import Client

EXAMPLE = "symphony pin /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=operand.path, metavar="PATH", help="files")
    parser.add_argument("--json", action="store_true", help="what stat shows of them")


async def call(client: Client, args: argparse.Namespace) -> int:
    done, code = await operand.change(args.paths, client.pin)
    if args.json:
        await operand.show_changed(client, done)
    return code
