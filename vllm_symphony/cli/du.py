"""symphony du: what files and directories take (cli/du.py). A page that files share costs each its part of it.

PAGES  TOKENS  PATH
123.0   3,912  /kb/handbook.kv
124.5   4,000  /kb
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import FileStat
from vllm_symphony.cli import operand
from vllm_symphony.cli.size import pages
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony du -s /kb /home/agents"

Line = tuple[float, int, str]
_COLUMNS: dict[str, Callable[[Line], str]] = {
    "PAGES": lambda line: pages(line[0]),
    "TOKENS": lambda line: f"{line[1]:,}",
    "PATH": lambda line: plain(line[2]),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", type=operand.path, metavar="PATH", help="files and directories (default: /)")
    parser.add_argument("-s", "--summarize", action="store_true", help="one line for each PATH")
    parser.add_argument("-a", "--all", action="store_true", help="files too, not only directories")
    parser.add_argument("--json", action="store_true", help="a JSON array: files, num_pages, num_tokens of each PATH")


async def call(client: Client, args: argparse.Namespace) -> int:
    lines: list[Line] = []
    found = []

    async def measure(one: str) -> None:
        result = await client.du(one)
        found.append(asdict(result))
        whole = (result.num_pages, result.num_tokens, one)
        lines.extend([whole] if args.summarize else [*_inside(result.files, one, args.all), whole])

    _, code = await operand.change(args.paths or ["/"], measure)
    if args.json:
        print(json.dumps(found, indent=2))
    elif lines:
        show(lines, _COLUMNS, as_json=False)
    return code


def _inside(files: Sequence[FileStat], top: str, every_file: bool) -> list[Line]:
    """A line for each directory below `top`, which has the sums of what is in it, and if wanted for each file."""
    shown = (file for file in files if file.path != top and (every_file or file.kind == "dir"))
    return [(file.charge, file.length, file.path or "-") for file in shown]
