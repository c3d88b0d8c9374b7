"""Measure in a process of its own (benchmarks/apart.py): each engine gets a fresh one, and whatever happens nothing stays behind.

    python -m benchmarks --spawn--> fn(*args) with the engine   --result by pipe--> back
             | Ctrl-C, TERM ------> KeyboardInterrupt in fn: its `with` blocks close engine, programs and clients
             | death -------------> the same, by the death signal

vLLM's native modules print hundreds of harmless leak lines in an orderly interpreter exit, so the process ends by `os._exit`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from vllm_symphony.engine import beside

T = TypeVar("T")
CLOSE_S = 20  # for an interrupted measurement to close what it opened


class Failed(RuntimeError):
    """What was measured did not work; the message is for people."""


def run_apart(fn: Callable[..., T], *args: Any) -> T:
    """`fn(*args)` in a new process; `fn` is a top-level function. Raises Failed with its traceback."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, os.getpid(), fn, args), name=f"benchmark-{fn.__name__}")
    process.start()
    theirs.close()
    try:
        kind, value = ours.recv()
    except EOFError:
        process.join()
        raise Failed(f"{fn.__name__} ended without a result, exit code {process.exitcode}") from None
    finally:
        _end(process)
        ours.close()
    if kind == "error":
        raise Failed(value)
    result: T = value
    return result


def follow(parent: int) -> None:
    """End by KeyboardInterrupt when asked to, and when `parent` dies."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    beside.end_with_parent()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _interrupt(*_: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # once: what follows is closing
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(answer: Connection, parent: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    follow(parent)
    code = 0
    try:
        message = ("value", fn(*args))
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as e:  # noqa: BLE001  the process boundary
        message, code = ("error", f"{type(e).__name__}: {e}\n{traceback.format_exc()}"), 1
    with contextlib.suppress(OSError):
        answer.send(message)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    process.join(0.5)
    if process.is_alive():
        process.terminate()
        process.join(CLOSE_S)
    if process.is_alive():
        process.kill()
        process.join()
