"""How lists look: aligned columns for people, one JSON array for programs (cli/table.py).

Names are programs' and may hold anything: what would steer a terminal is shown as its escape (abi/plain.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from vllm_symphony.abi.plain import plain


def show(rows: Sequence[Any], columns: dict[str, Any], *, as_json: bool) -> None:
    """Print dataclasses. `columns`: heading -> what to show of a row; JSON has all fields, by the names of the abi."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("\n".join(lines(rows, columns)))


def lines(rows: Sequence[Any], columns: dict[str, Any]) -> list[str]:
    """The heading, and a line for each row."""
    cells = [[plain(str(take(row))) for take in columns.values()] for row in rows]
    all_cells = [list(columns), *cells]
    widths = [max(len(line[i]) for line in all_cells) for i in range(len(columns))]
    numeric = [bool(cells) and all(_is_number(line[i]) for line in cells) for i in range(len(columns))]
    return [
        "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True)).rstrip()
        for line in all_cells
    ]


def show_one(row: Any, *, as_json: bool) -> None:
    """Print one record: a line for each field, or a JSON object."""
    values = row if isinstance(row, dict) else asdict(row)
    if as_json:
        print(json.dumps(values, indent=2))
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"{name:<{width}}  {_plain(value)}")


def line(value: Any) -> None:
    """Print a JSON line and flush: somebody may be following."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text == "-"


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items()) or "-"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(_plain, value)) or "-"
    return plain(str(value))
