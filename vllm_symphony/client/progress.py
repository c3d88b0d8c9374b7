"""How a long run goes, while one waits for its result (client/progress.py).

    process 12: running, 1034 tokens in, 212 out, 7s, waits for generate         one line on the terminal, rewritten

Shown from two seconds on, where somebody looks: on a terminal (stderr) or in a notebook; nowhere else. Asked for by
`result(progress=True)` or SYMPHONY_PROGRESS=1. A look that fails shows nothing: the run's own reader tells what is wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.plain import plain
from vllm_symphony.client.display import Process
from vllm_symphony.errors import SymphonyError

if TYPE_CHECKING:
    from vllm_symphony.client.client import Client
    from vllm_symphony.client.run import Run

FIRST_S, EVERY_S = 2.0, 0.5
_CLEAR = "\r\x1b[K"
Show = Callable[[Process | None], None]  # None: it is over


@asynccontextmanager
async def showing_progress(client: Client, run: Run, wanted: bool | None) -> AsyncGenerator[None, None]:
    """Show how `run` goes while the block runs, where it is wanted and somebody looks."""
    show = _screen() if _is_wanted(wanted) else None
    if show is None:
        yield
        return
    failed: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(client, run, show))
        try:
            yield
        except Exception as e:  # noqa: BLE001  raised again below: the group would wrap it
            failed = e
        finally:
            watching.cancel()
            show(None)
    if failed is not None:
        raise failed


def line(process: Process) -> str:
    """One process in one line."""
    usage, waits = process.usage, ", ".join(process.waiting)
    return (
        f"process {process.pid}: {plain(process.state)}, {usage.tokens_in} tokens in, {usage.tokens_out} out, "
        f"{process.seconds:.0f}s, {f'waits for {waits}' if waits else 'runs'}"
    )


async def _watch(client: Client, run: Run, show: Show) -> None:
    await asyncio.sleep(FIRST_S)
    while True:
        if run.pid is not None:
            try:
                for process in await client.ps(run.pid, timeout_s=EVERY_S):
                    show(process)
            except (SymphonyError, ConnectionError):
                pass
        await asyncio.sleep(EVERY_S)


def _is_wanted(wanted: bool | None) -> bool:
    return os.environ.get("SYMPHONY_PROGRESS", "0") not in ("", "0") if wanted is None else wanted


def _screen() -> Show | None:
    """Where somebody looks, if anybody does."""
    if (shell := _notebook()) is not None:
        return _in_notebook(shell)
    return _on_terminal if sys.stderr.isatty() else None


def _on_terminal(process: Process | None) -> None:
    sys.stderr.write(_CLEAR + (line(process) if process else ""))
    sys.stderr.flush()


def _notebook() -> Any:
    """IPython's display function inside of a notebook's kernel; nothing is imported that is not there already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return ipython.display.display if ipython is not None and hasattr(shell, "kernel") else None


def _in_notebook(display: Any) -> Show:
    handle: Any = None

    def show(process: Process | None) -> None:
        nonlocal handle
        if process is None:
            return  # the last look stays
        if handle is None:
            handle = display(process, display_id=True)
        else:
            handle.update(process)

    return show
