"""symphony programs: list installed programs (cli/programs.py)."""

from __future__ import annotations

import argparse
import sys

from vllm_symphony.abi.types import ProgramInfo
from vllm_symphony.cli import limit, mode, size
from vllm_symphony.cli.moment import age
from vllm_symphony.cli.output import fit
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony programs -l 'ops/*'"

COLUMNS = {
    "PROGRAM": lambda p: f"{p.name}@{p.version}",
    "RUNTIME": lambda p: p.runtime,
    "SIZE": lambda p: size.shown(p.size),
    "AGE": lambda p: age(p.created_ns),
    "DESCRIPTION": lambda p: p.description or "-",
}
LONG = {
    "MODE": lambda p: mode.shown(p.mode, "file"),
    "OWNER": lambda p: p.owner,
    **{name: take for name, take in COLUMNS.items() if name != "DESCRIPTION"},
    "TOOLS": lambda p: _list(p.tools, "any"),
    "PATHS": lambda p: _list(p.paths, "any"),
    "LIMITS": lambda p: _limits(p),
    "NEEDS": lambda p: _list(p.dependencies, "-"),
    "SHA256": lambda p: p.sha256[:12],
    "DESCRIPTION": COLUMNS["DESCRIPTION"],
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="a glob on owner/name@version")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("-l", "--long", action="store_true", help="also rights, and what they declare")
    shape.add_argument("--text", action="store_true", help="PATTERN is one program: print its text, or its module's bytes")
    parser.add_argument("--json", action="store_true", help="a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.text:
        found = await client.program(args.pattern)
        if found.code:
            sys.stdout.buffer.write(found.code)
        else:
            sys.stdout.write(fit(found.source, sys.stdout))
        sys.stdout.flush()
        return 0
    show(await client.programs(args.pattern), LONG if args.long else COLUMNS, as_json=args.json)
    return 0


def _list(items: tuple[str, ...] | None, unsaid: str) -> str:
    return unsaid if items is None else ",".join(items) or "-"


def _limits(program: ProgramInfo) -> str:
    values = ((short, name, getattr(program.limits, name)) for short, name in limit.NAMES.items())
    return ",".join(f"{short}={limit.shown(name, value)}" for short, name, value in values if value is not None) or "-"
