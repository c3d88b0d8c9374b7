import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from vllm_symphony.abi.calls import Done, Exit, TimeResult
from vllm_symphony.abi.codec import Program, program_frame, read_args, read_call, reply_frame, signal_frame
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.launch import Cause, Rlimits
from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.poll import Poll
from vllm_symphony.engine.trusted import KILLED, Trusted

WAIT_S = 60.0


@dataclass
class Ends:
    """Our ends of one program, and what was heard of it."""

    link: socket.socket
    stdout: int
    stderr: int
    reader: FrameReader = field(default_factory=FrameReader)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    out: str = ""
    err: str = ""


class Rig:
    """The reactor's side: launches, answers calls, hears of starts and ends."""

    def __init__(self) -> None:
        self.poll = Poll()
        self.trusted = Trusted(self.poll, self)
        self.started: list[tuple[int, int]] = []
        self.ended: dict[int, int] = {}
        self.programs: dict[int, Ends] = {}

    def launch(self, source: str, *, args: str = "{}", pid: int = 1, name: str = "p.py", stdin: bool = False) -> Ends:
        left, right = socket.socketpair()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        theirs = [right.detach(), out_end, err_end]
        if stdin:
            reading, writing = os.pipe()
            os.close(writing)
            theirs.append(reading)
        ends = self.programs[pid] = Ends(left, out, err)
        self.trusted.launch(Pid(pid), theirs, Rlimits())
        left.sendall(program_frame(Program(source, "main", args, name, 7)))
        left.setblocking(False)
        for fd in (out, err):
            os.set_blocking(fd, False)
        return ends

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.poll.turn(time.monotonic_ns() + 5_000_000)
            for ends in self.programs.values():
                self._hear(ends)

    def end_of(self, pid: int = 1) -> Exit | None:
        """The exit frame, when the program has ended and been heard."""
        self.until(lambda: pid in self.ended)
        for _ in range(2):
            self._hear(self.programs[pid])
        return next((args for op, args in self.programs[pid].calls if op == "exit"), None)

    def on_started(self, pid: Pid, os_pid: int) -> None:
        self.started.append((pid, os_pid))

    def on_used(self, used: Any) -> None: ...

    def on_exited(self, pid: Pid, code: int, cpu_s: float, cause: Cause) -> None:
        assert pid not in self.ended
        self.ended[pid] = code

    def on_failed(self, pid: Pid, error: OSError) -> None:
        raise AssertionError(error)

    def on_lost(self, image: str) -> None: ...

    def close(self) -> None:
        self.trusted.close()
        self.poll.close()
        for ends in self.programs.values():
            ends.link.close()
            os.close(ends.stdout)
            os.close(ends.stderr)

    def _hear(self, ends: Ends) -> None:
        for name, fd in (("out", ends.stdout), ("err", ends.stderr)):
            with suppress(BlockingIOError):
                setattr(ends, name, getattr(ends, name) + os.read(fd, 1 << 16).decode())
        try:
            data = ends.link.recv(1 << 16)
        except (BlockingIOError, ConnectionError):
            return
        for body in ends.reader.feed(data):
            call = read_call(body)
            ends.calls.append((call.op, read_args(call)))
            if call.op == "now":
                ends.link.sendall(reply_frame(call.id, TimeResult(12.5)))
            elif call.id and call.op != "sleep":
                ends.link.sendall(reply_frame(call.id, Done()))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_a_program_runs_in_this_process_and_says_its_value(rig: Rig):
    rig.launch("import os\nasync def main(n: int) -> list:\n    return [n, os.getpid()]", args='{"n": 3}')

    end = rig.end_of()

    assert rig.started == [(1, os.getpid())]
    assert end == Exit(0, value=f"[3, {os.getpid()}]")
    assert rig.ended == {1: 0}


def test_the_library_speaks_to_the_programs_own_kernel(rig: Rig):
    source = "from vllm_symphony import lip\nasync def main(who: int) -> float:\n    lip.emit(who)\n    return await lip.now()"
    for pid in (1, 2, 3):
        rig.launch(source, args=f'{{"who": {pid}}}', pid=pid)

    for pid in (1, 2, 3):
        end = rig.end_of(pid)
        assert end is not None and end.value == "12.5"
        assert [args.value for op, args in rig.programs[pid].calls if op == "emit"] == [str(pid)]


def test_what_a_program_prints_is_its_own_output_also_from_tasks_and_threads(rig: Rig):
    source = """
import asyncio, sys
print("loaded")
async def main(me: int):
    await asyncio.gather(*(say(me, i) for i in range(3)))
    await asyncio.to_thread(print, me, "thread")
    print("trouble", me, file=sys.stderr)
async def say(me, i):
    await asyncio.sleep(0)
    print(me, i)
"""
    for pid in (1, 2):
        rig.launch(source, args=f'{{"me": {pid}}}', pid=pid)

    for pid in (1, 2):
        rig.end_of(pid)
        assert sorted(rig.programs[pid].out.splitlines()) == sorted(["loaded", *(f"{pid} {i}" for i in range(3)), f"{pid} thread"])
        assert rig.programs[pid].err == f"trouble {pid}\n"


def test_more_output_than_a_pipe_holds_is_all_heard_and_holds_nobody_up(rig: Rig):
    rig.launch("async def main():\n    print('x' * 1_000_000)")

    rig.end_of()

    rig.until(lambda: len(rig.programs[1].out) == 1_000_001)


@pytest.mark.parametrize(
    ("source", "code", "reason", "told"),
    [
        ("async def main():\n    return 1 / 0", 1, "exception", "ZeroDivisionError: division by zero"),
        ("async def main():\n    raise SystemExit(3)", 3, "exit", ""),
        ("raise SystemExit(4)", 4, "exit", ""),
        ("def main(:", 2, "program", "SyntaxError"),
        ("async def other(): ...", 2, "program", "has no function main()"),
        ("async def main():\n    return object()", 1, "exception", "returned what is not JSON"),
        ("import asyncio\nasync def main():\n    raise asyncio.CancelledError", 130, "cancelled", ""),
    ],
)
def test_an_end_is_as_in_a_process_of_its_own(rig: Rig, source: str, code: int, reason: str, told: str):
    rig.launch(source)

    end = rig.end_of()

    assert end is not None
    assert (end.code, end.reason, rig.ended[1]) == (code, reason, code)
    assert told in rig.programs[1].err


def test_term_cancels_the_main_task(rig: Rig):
    source = """
from vllm_symphony import lip
async def main():
    try:
        await lip.sleep(1e6)
    finally:
        print("cleaned up")
"""
    ends = rig.launch(source)
    rig.until(lambda: any(op == "sleep" for op, _ in ends.calls))

    ends.link.sendall(signal_frame("TERM"))

    end = rig.end_of()
    assert (end and end.code, ends.out) == (130, "cleaned up\n")


def test_kill_forgets_a_program_at_once_and_cancels_it(rig: Rig):
    stubborn = """
import asyncio
async def main():
    print("up")
    while True:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            print("no")
            return
"""
    ends = rig.launch(stubborn)
    rig.until(lambda: ends.out == "up\n")

    rig.trusted.kill(Pid(1))

    rig.end_of()
    assert rig.ended == {1: KILLED}
    rig.until(lambda: ends.out == "up\nno\n")


def test_tasks_that_a_program_leaves_are_cancelled_and_others_run_on(rig: Rig):
    leaver = """
import asyncio
async def main():
    asyncio.create_task(stay())
    await asyncio.sleep(0)
async def stay():
    try:
        await asyncio.sleep(1e6)
    finally:
        print("swept")
"""
    waiter = "from vllm_symphony import lip\nasync def main():\n    await lip.sleep(1e6)"
    other = rig.launch(waiter, pid=2)
    rig.until(lambda: bool(other.calls))

    rig.launch(leaver, pid=1)
    rig.end_of(1)

    assert rig.programs[1].out == "swept\n"
    assert 2 not in rig.ended


def test_a_task_that_exits_the_interpreter_does_not_end_the_others(rig: Rig):
    bomb = """
import asyncio
async def main():
    task = asyncio.create_task(leave())
    await asyncio.wait([task])
    return str(task.exception())
async def leave():
    raise SystemExit(9)
"""
    rig.launch(bomb)

    end = rig.end_of()

    assert end is not None and end.value == '"9"'


def test_a_reactor_that_goes_before_the_program_came_leaves_nothing(rig: Rig):
    left, right = socket.socketpair()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    rig.trusted.launch(Pid(1), [right.detach(), out_end, err_end], Rlimits())

    left.close()

    rig.until(lambda: 1 in rig.ended)
    assert os.read(out, 1) == os.read(err, 1) == b""
    os.close(out)
    os.close(err)


def test_it_has_no_input(rig: Rig):
    rig.launch("async def main():\n    return 1", stdin=True)

    end = rig.end_of()

    assert end is not None and end.value == "1"


def test_closing_ends_what_runs(rig: Rig):
    ends = rig.launch("from vllm_symphony import lip\nasync def main():\n    await lip.sleep(1e6)")
    rig.until(lambda: bool(ends.calls))

    rig.trusted.close()

    assert not rig.trusted.is_running
    rig.trusted.close()
