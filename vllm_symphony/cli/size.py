"""Sizes as people read and write them (cli/size.py)."""

from __future__ import annotations

import argparse
import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def shown(num_bytes: float) -> str:
    """512 B, 4.0 KiB, 1.2 GiB."""
    for unit in _UNITS:
        if num_bytes < 1024 or unit == _UNITS[-1]:
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"


def parsed(text: str) -> int:
    """4096, 64k, 1.5G: bytes, in powers of 1024; for argparse."""
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.lower())):
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 4096, 64k or 1.5G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def pages(num_pages: float) -> str:
    """12, 4.5: shared pages are split."""
    return f"{num_pages:,.0f}" if num_pages == int(num_pages) else f"{num_pages:,.1f}"


class Moved:
    """How far something is: call it with the bytes that are there and all of them."""

    def __init__(self) -> None:
        self._now = self._all = 0

    def __call__(self, num_bytes: int, of_bytes: int) -> None:
        self._now, self._all = num_bytes, of_bytes

    def text(self) -> str:
        """1.0 MiB of 4.0 MiB."""
        return f"{shown(self._now)} of {shown(self._all)}" if self._all else ""
