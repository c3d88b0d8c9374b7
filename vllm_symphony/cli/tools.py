"""symphony tools: list the tools that programs may be given (cli/tools.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.abi.plain import plain
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.table import show, show_one
from vllm_symphony.client.client import Client

EXAMPLE = "symphony tools --json"

COLUMNS = {
    "NAME": lambda t: t.name,
    "DRIVER": lambda t: t.driver or "-",
    "RETRIES": lambda t: "yes" if t.idempotent else "no",
    "DESCRIPTION": lambda t: _line(t.description),
}
MAX_LINE = 80  # characters of a description


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this tool, with all that is known of it")
    parser.add_argument("--json", action="store_true", help="a JSON array; of one tool an object")


async def call(client: Client, args: argparse.Namespace) -> int:
    tools = await client.tools()
    if args.name is None:
        show(tools, COLUMNS, as_json=args.json)
        return 0
    for tool in tools:
        if tool.name == args.name:
            show_one(tool, as_json=args.json)
            return 0
    there = ", ".join(plain(tool.name) for tool in tools) or "none"
    return complain(f"no such tool: {args.name} (there are: {there})")


def _line(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return (first if len(first) <= MAX_LINE else f"{first[: MAX_LINE - 1]}…") or "-"
