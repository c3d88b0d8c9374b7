"""Something that takes a while, in front of somebody (cli/progress.py): one line on a terminal's stderr, gone when it is over."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from vllm_symphony.cli.moment import duration

_AFTER_S, _EACH_S = 1.0, 0.25


@asynccontextmanager
async def progress(what: str, detail: Callable[[], str] = str) -> AsyncIterator[None]:
    """Show `what`, how long it has taken, and `detail()`, from a second on; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield
        return
    shown = asyncio.create_task(_show(what, detail))
    try:
        yield
    finally:
        shown.cancel()
        with suppress(asyncio.CancelledError):
            await shown


async def _show(what: str, detail: Callable[[], str]) -> None:
    began = time.monotonic()
    await asyncio.sleep(_AFTER_S)
    try:
        while True:
            sys.stderr.write(f"\r\x1b[K{what} ... {duration(time.monotonic() - began)}  {detail()}".rstrip())
            sys.stderr.flush()
            await asyncio.sleep(_EACH_S)
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
