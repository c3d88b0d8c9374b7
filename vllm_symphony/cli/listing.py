"""A long line for a file (cli/listing.py), as `ls -l` and `find -l` show it.

-rw-r----- docs staff 3,912 tokens 123 pages gpu,disk exact handbook.kv
"""

from __future__ import annotations

from collections.abc import Sequence

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import FileStat
from vllm_symphony.cli import mode

_RIGHT = (False, False, False, True, True, False, False)


def tiers(file: FileStat) -> str:
    """Where its pages are."""
    where = (("gpu", file.device_pages), ("host", file.host_pages), ("disk", file.disk_pages))
    return ",".join(name for name, count in where if count) or "-"


def long(files: Sequence[FileStat], names: Sequence[str]) -> list[str]:
    """A line for each, aligned."""
    rows = [_cells(file) for file in files]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(_RIGHT))]
    return [
        "  ".join([*(_padded(*cell) for cell in zip(row, widths, _RIGHT, strict=True)), plain(name)])
        for row, name in zip(rows, names, strict=True)
    ]


def _cells(file: FileStat) -> tuple[str, ...]:
    rights = mode.shown(file.mode, file.kind)
    if file.kind == "dir":
        return rights, file.owner, file.group, "-", "-", "-", f"keeps {file.durable}" if file.durable else "-"
    lineage = file.fidelity + (",stale" if file.stale else "")
    tokens, pages = _count(file.length, "token"), _count(file.num_pages, "page")
    return rights, file.owner, file.group, tokens, pages, tiers(file), lineage


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{' ' if number == 1 else 's'}"


def _padded(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)
