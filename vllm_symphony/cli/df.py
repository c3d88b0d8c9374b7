"""symphony df: the room on the device and below it, and what you have of it (cli/df.py).

TIER  SIZE      USED     FREE      USE  YOURS       LIMIT
gpu   512 pages 41 pages 471 pages  8%  12.5 pages  -
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from vllm_symphony.abi.types import FsStat
from vllm_symphony.cli import size
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony df"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of room."""

    tier: str
    total: float
    used: float
    mine: float
    limit: float | None
    shown: Callable[[float], str]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a JSON object")


async def call(client: Client, args: argparse.Namespace) -> int:
    fs = await client.statfs()
    if args.json:
        print(json.dumps(asdict(fs), indent=2))
    else:
        show(rows(fs), _COLUMNS, as_json=False)
        print(f"a page is {fs.page_size} tokens, {size.shown(fs.page_bytes)}; the disk has {size.shown(fs.disk_bytes_free)} left")
    return 0


def rows(fs: FsStat) -> list[Row]:
    """What the table shows."""
    quota = fs.quota
    device_used = fs.device_pages - fs.device_pages_free
    return [
        Row("gpu", fs.device_pages, device_used, quota.used_device_pages, quota.device_pages, lambda n: f"{size.pages(n)} pages"),
        Row("host", fs.host_bytes, fs.host_bytes_used, quota.used_host_bytes, quota.host_bytes, size.shown),
        Row("disk", fs.disk_bytes, fs.disk_bytes_used, quota.used_disk_bytes, quota.disk_bytes, size.shown),
        Row("files", fs.max_files, fs.files, quota.used_files, quota.files, lambda n: f"{n:,.0f}"),
    ]


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "TIER": lambda r: r.tier,
    "SIZE": lambda r: r.shown(r.total),
    "USED": lambda r: r.shown(r.used),
    "FREE": lambda r: r.shown(max(0, r.total - r.used)),
    "USE": lambda r: f"{100 * r.used / r.total:.0f}%" if r.total else "-",
    "YOURS": lambda r: r.shown(r.mine),
    "LIMIT": lambda r: "-" if r.limit is None else r.shown(r.limit),
}
