"""symphony install: keep a program at the server under a name and a version (cli/install.py)."""

from __future__ import annotations

import argparse
from dataclasses import replace

from vllm_symphony.cli.mode import octal
from vllm_symphony.cli.table import show_one
from vllm_symphony.client.client import Client
from vllm_symphony.client.run import Program

EXAMPLE = "symphony install agent.py --name triage@1.2"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the program: FILE.py or FILE.wasm")
    parser.add_argument("--name", metavar="NAME@VERSION", required=True, type=_versioned, help="as triage@1.2, or ops/triage@1.2")
    parser.add_argument("--owner", metavar="PRINCIPAL", help="whose it is (default: yours; another's takes scope admin)")
    parser.add_argument("--entry", default="main", metavar="FUNCTION", help="the function to call (default: main)")
    parser.add_argument("--description", default="", metavar="TEXT", help="a line for lists (default: what the program says)")
    parser.add_argument("--mode", type=octal, default=0o755, metavar="MODE", help="who may see (r) and run (x) it (default: 755)")
    parser.add_argument("--json", action="store_true", help="a JSON object, as programs shows it")


async def call(client: Client, args: argparse.Namespace) -> int:
    name = args.name if args.owner is None else f"{args.owner}/{args.name.rpartition('/')[2]}"
    program = replace(Program.of(args.file), entry=args.entry)
    installed = await client.install(program, name, description=args.description, mode=args.mode)
    if args.json:
        show_one(installed, as_json=True)
    else:
        print(f"{installed.name}@{installed.version}")
    return 0


def _versioned(text: str) -> str:
    """For argparse."""
    name, _, version = text.rpartition("/")[2].partition("@")
    if not name or not version:
        raise argparse.ArgumentTypeError(f"{text!r} is no name with a version, as triage@1.2")
    return text
