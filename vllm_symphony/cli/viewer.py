"""A process in front of somebody: what it prints, the keys, the time limit, its end (cli/viewer.py). Used by run and attach.

Ctrl-C, SIGTERM      end it (TERM), the second time kill it; or only stop looking (`Interrupt.DETACH`)
time limit           TERM; the kernel kills what is still there after its grace
connection lost      it is looked for again; if that fails the process goes on without us
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from enum import Enum

from vllm_symphony.abi.types import Signal
from vllm_symphony.cli import output
from vllm_symphony.cli.command import EXIT_INTERRUPTED, EXIT_UNREACHABLE, complain
from vllm_symphony.client.call import ServerUnreachable
from vllm_symphony.client.client import Client
from vllm_symphony.client.run import Run, RunResult
from vllm_symphony.errors import SymphonyError

EXIT_TIME_LIMIT = 124  # as coreutils' timeout


class Interrupt(Enum):
    """What Ctrl-C does to the process."""

    END = "end"
    DETACH = "detach"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of who watches."""
    parser.add_argument("--json", action="store_true", help="each event as a JSON line, the result as the last one")
    parser.add_argument("--stats", action="store_true", help="say on stderr what it cost, even where stderr is no terminal")


async def view(client: Client, run: Run, args: argparse.Namespace, interrupt: Interrupt, timeout_s: float | None = None) -> int:
    """Until the process ended or nobody looks any more; the exit code."""
    first, second, out_of_time = asyncio.Event(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (second if first.is_set() else first).set())
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_read(run, args))
            beside = [tasks.create_task(_obey(client, run, reading, interrupt, first, second))]
            if timeout_s is not None:
                beside.append(tasks.create_task(_limit(client, run, timeout_s, out_of_time)))
            await asyncio.wait([reading])
            for task in beside:
                task.cancel()
    finally:
        await run.aclose()
    outcome = None if reading.cancelled() else reading.result()
    if isinstance(outcome, ServerUnreachable) and run.pid is not None:
        complain(str(outcome))
        return _goes_on(run, EXIT_UNREACHABLE)
    if isinstance(outcome, Exception):
        raise outcome
    if first.is_set():
        return EXIT_INTERRUPTED if outcome is not None or run.pid is None else _goes_on(run, EXIT_INTERRUPTED)
    assert outcome is not None, "only a key stops the reading"
    return EXIT_TIME_LIMIT if out_of_time.is_set() else outcome.exit.code


def _goes_on(run: Run, code: int) -> int:
    return complain(f"process {run.pid} goes on; symphony attach {run.pid}", code)


async def _read(run: Run, args: argparse.Namespace) -> RunResult | Exception:
    """Show all of it. Errors are given, not raised: a task group would wrap them."""
    try:
        printed_error = False
        async for event in run:
            output.show(event, as_json=args.json)
            printed_error |= event.kind == "stderr"
        result = await run.result()
        output.show_result(result, as_json=args.json, stats=args.stats, printed_error=printed_error)
    except (SymphonyError, ConnectionError) as e:
        return e
    return result


async def _obey(
    client: Client, run: Run, reading: asyncio.Task[object], interrupt: Interrupt, first: asyncio.Event, second: asyncio.Event
) -> None:
    """The keys."""
    await first.wait()
    if interrupt is Interrupt.DETACH or run.pid is None:  # it did not even start: leaving is enough
        reading.cancel()
        return
    for press, remark, word in ((first, "cancelling (Ctrl-C again kills it)", Signal.TERM), (second, "killing it", Signal.KILL)):
        await press.wait()
        complain(remark)
        if not await _send(client, run, word):
            run.detach()
            reading.cancel()
            return


async def _limit(client: Client, run: Run, timeout_s: float, out_of_time: asyncio.Event) -> None:
    await asyncio.sleep(timeout_s)
    out_of_time.set()
    complain(f"its {timeout_s:g} s are over: ending it")
    await _send(client, run, Signal.TERM)


async def _send(client: Client, run: Run, word: str) -> bool:
    """False when no server is there to take it."""
    if run.pid is not None:
        try:
            await client.kill(run.pid, word)
        except SymphonyError:
            pass  # it may just have ended
        except ConnectionError as e:
            complain(str(e))
            return False
    return True
