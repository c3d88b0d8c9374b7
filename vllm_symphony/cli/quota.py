"""symphony quota: show what a principal may hold and holds; with limits, set them (cli/quota.py). Setting takes scope admin.

symphony quota                                           your own
symphony quota ci --device-pages 512 --disk 20G          limits of ci
symphony quota ci --disk none                            no limit any more
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from vllm_symphony.abi.types import Quota
from vllm_symphony.cli import size
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony quota ci --device-pages 512 --disk 20G"
_NO_LIMIT = -1
_COUNTS = {
    "device_pages": "pages on the device",
    "files": "files and directories",
    "rows": "kept rows",
    "pinned_pages": "pinned pages",
}
_SIZES = {"host_bytes": ("--host", "bytes in host memory"), "disk_bytes": ("--disk", "bytes on disk")}


@dataclass(frozen=True, slots=True)
class Row:
    """One limit."""

    what: str
    used: str
    limit: str


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("principal", nargs="?", default="", metavar="PRINCIPAL", help="whose (default: yours)")
    for name, text in _COUNTS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, type=_limit(natural), metavar="N", help=f"{text}; none: no limit"
        )
    for name, (option, text) in _SIZES.items():
        parser.add_argument(option, dest=name, type=_limit(size.parsed), metavar="SIZE", help=f"{text}, as in 20G; none: no limit")
    parser.add_argument("--json", action="store_true", help="a JSON object")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Limits are somebody's."""
    args = parser.parse_args(words)
    args.limits = {name: getattr(args, name) for name in (*_COUNTS, *_SIZES) if getattr(args, name) is not None}
    if args.limits and not args.principal:
        parser.error("whose limits? name the PRINCIPAL")
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.limits:
        await client.setquota(args.principal, **args.limits)
    quota = await client.getquota(args.principal)
    if args.json:
        print(json.dumps(asdict(quota), indent=2))
    else:
        show(rows(quota), _COLUMNS, as_json=False)
    return 0


def rows(quota: Quota) -> list[Row]:
    """What the table shows."""

    def row(name: str, text: str, shown: Callable[[float], str]) -> Row:
        limit = getattr(quota, name)
        return Row(text, shown(getattr(quota, f"used_{name}")), "-" if limit is None else shown(limit))

    counts = [row(name, text, size.pages) for name, text in _COUNTS.items()]
    return counts + [row(name, text, size.shown) for name, (_, text) in _SIZES.items()]


_COLUMNS: dict[str, Callable[[Row], str]] = {"WHAT": lambda r: r.what, "USED": lambda r: r.used, "LIMIT": lambda r: r.limit}


def _limit(number: Callable[[str], int]) -> Callable[[str], int]:
    """A number, or `none`; for argparse."""
    return lambda text: _NO_LIMIT if text == "none" else number(text)
