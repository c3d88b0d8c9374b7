"""Running one Python program: its loop, its main task, what its end means (runtime/program.py).

    PythonRun()        an event loop, in the fork server
      .prepare()       the loop's own files, in the child
      .run(program)    load -> bind the library -> main -> Exit
      .close()         cancel the tasks that it left, close the loop

What a user should see of a failure goes to stderr; TERM cancels the main task, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

from vllm_symphony.abi.calls import Exit
from vllm_symphony.abi.codec import Program
from vllm_symphony.errors import BadProgram
from vllm_symphony.lip.transport import bind
from vllm_symphony.runtime import advice, loader
from vllm_symphony.runtime.loop import InheritedLoop
from vllm_symphony.runtime.transport import SocketTransport


class PythonRun:
    """Owns an event loop from its creation to `close`; one program runs in it, after any rehearsals."""

    def __init__(self) -> None:
        self._inherited = InheritedLoop()

    def prepare(self) -> None:
        """In a child, before anything else."""
        self._inherited.renew()

    def run(self, program: Program, transport: SocketTransport) -> Exit:
        """Load and run."""
        try:
            entry, kwargs = loader.load(program)
        except BadProgram as e:
            return _refused(e)
        except BaseException as e:  # noqa: BLE001  the process boundary
            return failure_of(e)
        try:
            value = self._inherited.loop.run_until_complete(_drive(entry, kwargs, transport, program.seed))
        except BaseException as e:  # noqa: BLE001  the process boundary
            return failure_of(e)
        return _returned(program, value)

    def close(self) -> None:
        """End what the program left in the loop, as `asyncio.run` does."""
        if self._inherited.is_used:
            runner = asyncio.Runner(loop_factory=lambda: self._inherited.loop)
            runner.get_loop()
            runner.close()


async def run_in_loop(program: Program, transport: SocketTransport, module: str) -> Exit:
    """Load a program as `module` and run it in the loop that runs already: one of many (engine/trusted.py)."""
    try:
        entry, kwargs = loader.load(program, module)
    except BadProgram as e:
        return _refused(e)
    except BaseException as e:  # noqa: BLE001  the program's boundary
        return failure_of(e)
    try:
        value = await _drive(entry, kwargs, transport, program.seed)
    except BaseException as e:  # noqa: BLE001  the program's boundary
        return failure_of(e)
    return _returned(program, value)


async def _drive(entry: Any, kwargs: dict[str, Any], transport: SocketTransport, seed: int) -> Any:
    """The program's main task. TERM cancels it, once."""
    task = asyncio.current_task()
    assert task is not None
    transport.start(on_term=task.cancel)
    bind(transport, seed=seed)
    await asyncio.sleep(0)  # a TERM that came before the loop was there
    result = entry(**kwargs)
    return await result if hasattr(type(result), "__await__") else result


def _refused(error: BadProgram) -> Exit:
    print(error.message, file=sys.stderr)
    return Exit(2, error=_last_line(error.message), reason="program")


def _returned(program: Program, value: Any) -> Exit:
    try:
        return Exit(0, value=json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as e:
        message = f"TypeError: {program.entry} returned what is not JSON: {e}"
        print(message, file=sys.stderr)
        return Exit(1, error=message, reason="exception")


def failure_of(error: BaseException) -> Exit:
    """What an exception that left the program means; its traceback goes to stderr."""
    if isinstance(error, SystemExit):
        return _system_exit(error)
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return Exit(130, error="cancelled", reason="cancelled")
    text = loader.traceback_of(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + advice.hint(error))
    return Exit(1, error=_last_line(text), reason="exception")


def _system_exit(error: SystemExit) -> Exit:
    if error.code is None or isinstance(error.code, int):
        return Exit((error.code or 0) & 0xFF)
    print(error.code, file=sys.stderr)
    return Exit(1, error=_last_line(str(error.code)))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:1000]
