"""Limits as people read and write them (cli/limit.py).

tokens=20k   wall=5m   cpu=30s   device=10s   memory=512MiB   processes=4   depth=1   tool_calls=20   calls_per_s=100
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.cli import size
from vllm_symphony.cli.moment import duration, span


def _short(name: str) -> str:
    return name if name == "calls_per_s" else name.removesuffix("_s").removesuffix("_bytes")


NAMES = {_short(field.name): field.name for field in fields(ResourceLimits)}
NONE = -1  # of a principal: takes the limit away


def limit(text: str) -> tuple[str, int | float]:
    """`NAME=VALUE`: the field and its value; for argparse."""
    short, equals, value = text.partition("=")
    name = NAMES.get(short, short)
    if not equals or name not in NAMES.values():
        raise argparse.ArgumentTypeError(f"{text!r} is no limit like tokens=1000 (there are: {', '.join(NAMES)})")
    return name, NONE if value == "none" else _value(name, value)


def limits_of(given: Iterable[tuple[str, int | float]] | None) -> ResourceLimits | None:
    """All of them together; None where none was given. The last one of a name counts."""
    values: dict[str, Any] = dict(given or ())
    return replace(ResourceLimits(), **values) if values else None


def shown(name: str, value: float | None) -> str:
    """A field's value with its unit; `-` for none."""
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return size.shown(value)
    if name.endswith("_s") and name != "calls_per_s":
        return duration(value)
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _value(name: str, text: str) -> int | float:
    if name.endswith("_bytes"):
        return size.parsed(text)
    if name == "calls_per_s":
        return _number(text)
    return span(text) if name.endswith("_s") else int(_number(text))


def _number(text: str) -> float:
    """10, 2.5, 20k, 1.5M: in powers of ten."""
    if not (match := re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([kKMG]?)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number like 1000 or 20k")
    return float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}[match[2]]
