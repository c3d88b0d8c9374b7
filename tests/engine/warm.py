"""Processes for engines of their own, forked from one that has vLLM imported: the import alone costs ten seconds of CPU time.

    test --- fork server (multiprocessing's; imports preloaded.py once, one thread) --fork--> work(*args) --> what it returns

An engine is made after the fork, so each process has its own and nothing of another's.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from tests.tiny import engine_env

R = TypeVar("R")
_SAID, _LAST_WORDS, _PATIENCE_S = "said", 6000, 30.0
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.engine.preloaded"])


class Ended(Exception):
    """The process ended without a result; with the last that it wrote."""


def warm_up() -> None:
    """Start the fork server. It stays as long as we."""
    engine_env()  # what it inherits cannot be changed later
    forkserver.ensure_running()


def run_apart(work: Callable[..., R], *args: Any, timeout_s: float) -> R:
    """What `work`, a function of a module, returns in a process of its own. Raises Ended."""
    warm_up()
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="symphony-apart-") as scratch, ours:
        process = _CONTEXT.Process(target=_work, args=(theirs, scratch, timeout_s - 10, work, args))
        process.start()
        theirs.close()
        try:
            if ours.poll(timeout_s):
                result: R = ours.recv()
                return result
            raise Ended(f"no result in {timeout_s:g} s:\n{_end_of(scratch)}")
        except EOFError:
            process.join(timeout_s)
            raise Ended(f"the process ended with {process.exitcode}:\n{_end_of(scratch)}") from None
        finally:
            process.join(_PATIENCE_S)
            process.kill()
            process.join()
            process.close()


def _work(result: Connection, scratch: str, timeout_s: float, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """The forked side. What it leaves in temporary files goes with it: it ends without `atexit`."""
    tempfile.tempdir = scratch
    fd = os.open(os.path.join(scratch, _SAID), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(fd, stream)
    os.close(fd)
    faulthandler.dump_traceback_later(timeout_s, exit=True)
    result.send(work(*args))
    result.close()
    faulthandler.cancel_dump_traceback_later()


def _end_of(scratch: str) -> str:
    said = Path(scratch, _SAID)
    return said.read_text(errors="replace")[-_LAST_WORDS:] if said.exists() else ""
