"""Times as people read and write them (cli/moment.py)."""

from __future__ import annotations

import argparse
import re
import time
from datetime import datetime

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(seconds: float) -> str:
    """0.42s, 12.3s, 4m05s, 2h07m, 3d04h."""
    if seconds < 10:
        return f"{seconds:.2f}s"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def span(text: str) -> float:
    """`90`, `30s`, `10m`, `2h`, `30d`: seconds; for argparse."""
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 30s, 10m, 2h or 30d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def age(t_ns: int) -> str:
    """How long ago that was (nanoseconds since the epoch)."""
    return duration(max(0.0, time.time() - t_ns / 1e9))


def clock(t_ns: int) -> str:
    """Local time of day with microseconds."""
    return datetime.fromtimestamp(t_ns / 1e9).strftime("%H:%M:%S.%f")


def moment(text: str) -> int:
    """`10m`, `2h`, `90s`: that long ago; else an ISO date and time. Nanoseconds since the epoch, for argparse."""
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return time.time_ns() - int(float(ago[1]) * _UNITS[ago[2]] * 1e9)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither like 10m (s, m, h, d) nor like 2026-01-31T12:00") from None
