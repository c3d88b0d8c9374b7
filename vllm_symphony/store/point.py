"""Points of a write where a crash test may end the process (store/point.py).

    written aside --> synced --> renamed --> visible        segment.page, segment.written, segment.synced, segment.renamed, ...
    begun --> written --> committed                         store.begun, store.written, store.committed

A server calls nothing here; a test sets `hook` before it starts (`--crash-at NAME:NTH` of the kernel host, which is not shown).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.store import segment

hook: Callable[[str], None] = lambda point: None  # noqa: E731


def reach(point: str) -> None:
    """The write is there."""
    hook(point)


def kill_at(text: str) -> None:
    """End this process by SIGKILL when it comes to the point NAME for the NTH time, `text` being NAME:NTH.

    Raises:
        InvalidArgument: `text` is not of that form.
    """
    global hook
    name, _, nth = text.partition(":")
    if not name or not nth.isdecimal():
        raise InvalidArgument(f"a point to crash at is NAME:NTH, not {text!r}")
    left = int(nth)

    def count(point: str) -> None:
        nonlocal left
        left -= point == name
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    hook = segment.hook = count
