"""symphony unpin: let the pages of pinned files go again (cli/unpin.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.cli import operand
from vllm_symphony.cli.pin import arguments as arguments
from vllm_symphony.client.client import Client

EXAMPLE = "symphony unpin /kb/handbook.kv"


async def call(client: Client, args: argparse.Namespace) -> int:
    done, code = await operand.change(args.paths, client.unpin)
    if args.json:
        await operand.show_changed(client, done)
    return code
