"""symphony uninstall: take installed programs away (cli/uninstall.py). What runs goes on."""

from __future__ import annotations

import argparse

from vllm_symphony.cli.operand import change
from vllm_symphony.client.client import Client

EXAMPLE = "symphony uninstall triage@1.2"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help="owner/name@version; without owner yours")


async def call(client: Client, args: argparse.Namespace) -> int:
    _, code = await change(args.programs, client.uninstall)
    return code
