"""Runs and their events, with a client that is no client: who ends the program, what is read again, what is shown meanwhile."""

import asyncio
import io
import sys
from types import SimpleNamespace

import grpc
import pytest

from tests.unit.client.test_call import rpc_error
from tests.unit.client.test_display import STAT
from vllm_symphony.abi.types import ExitStatus, ProcessEvent
from vllm_symphony.client import Retry, ServerUnreachable, progress
from vllm_symphony.client.call import Caller
from vllm_symphony.client.display import Process
from vllm_symphony.client.follow import follow
from vllm_symphony.client.run import Run, RunResult
from vllm_symphony.errors import DeviceLost, NoSuchProcess, WouldBlock
from vllm_symphony.proto.message import to_message
from vllm_symphony.proto.v1 import process_pb2

FAST = Retry(tries=2, first_s=0.001, most_s=0.001, reconnect_s=0.05)


def event(seq, kind="stdout", text=""):
    return ProcessEvent(seq, 0, kind, text, 7)


class FakeClient:
    """Its program prints `events` and ends; without `ends` it prints no more."""

    def __init__(self, *events, ends=True, error=None):
        self.events, self.ends, self.error = events, ends, error
        self.killed, self.num_looks = [], 0

    async def attach(self, pid, from_seq=1):
        for e in self.events[from_seq - 1 :]:
            yield e
        if self.error is not None:
            raise self.error
        if not self.ends:
            await asyncio.Event().wait()

    async def wait(self, pid):
        return RunResult(ExitStatus(0, "exit", "5"), Process.of(STAT))

    async def kill(self, pid, timeout_s):
        self.killed.append(pid)

    async def ps(self, pid, timeout_s):
        self.num_looks += 1
        return [Process.of(STAT)]


async def seven():
    return 7


def test_a_run_that_is_read_to_the_end_is_ended_by_nobody():
    async def main():
        client = FakeClient(event(1), event(2))
        run = Run(client, seven, "prog")
        assert [e.seq async for e in run] == [1, 2]
        assert (await run.result()).value == 5
        await run.aclose()
        return client.killed

    assert asyncio.run(main()) == []


@pytest.mark.parametrize("detached", [False, True])
def test_a_run_that_is_left_gets_term_unless_it_was_detached(detached):
    async def main():
        client = FakeClient(event(1), ends=False)
        run = Run(client, seven, "prog")
        assert run.detach() is None
        run = Run(client, seven, "prog")
        await anext(run)
        if detached:
            assert run.detach() == 7
        await run.aclose()
        await run.aclose()
        return client.killed

    assert asyncio.run(main()) == ([] if detached else [7])


def test_a_run_whose_reader_is_cancelled_gets_term():
    async def main():
        client = FakeClient(event(1), ends=False)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Run(client, seven, "prog").result()
        return client.killed

    assert asyncio.run(main()) == [7]


def test_a_run_that_is_cancelled_while_it_starts_is_ended_when_its_pid_is_known():
    async def main():
        client, asked, answered = FakeClient(), asyncio.Event(), asyncio.Event()

        async def start():
            asked.set()
            await answered.wait()
            return 7

        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(Run(client, start, "prog").result())
            await asked.wait()
            reading.cancel()
            await asyncio.sleep(0)
            answered.set()
        return client.killed

    assert asyncio.run(main()) == [7]


def test_a_run_that_lost_its_server_leaves_the_program_alone():
    async def main():
        client = FakeClient(event(1), error=ServerUnreachable("there", "gone"))
        run = Run(client, seven, "prog")
        with pytest.raises(ServerUnreachable):
            await run.result()
        return run.pid, client.killed

    assert asyncio.run(main()) == (7, [])


# ---- events over connections that break


def streams(*scripts):
    """Attaches, one after the other: each gives its events, then fails or ends. Keeps the numbers that it was asked from."""
    asked, rest = [], list(scripts)

    async def attach(seq):
        asked.append(seq)
        *events, end = rest.pop(0) if rest else [rpc_error(None)]
        for e in events:
            yield process_pb2.AttachResponse(events=[to_message(e, process_pb2.ProcessEvent())])
        if end is not None:
            raise end

    return attach, asked


def read(attach, from_seq=1):
    async def main():
        return [e async for e in follow(Caller("there", FAST), attach, from_seq)]

    return asyncio.run(main())


def test_events_go_on_where_the_connection_broke():
    cancelled = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "by the server")
    full = rpc_error(WouldBlock("starting"))
    attach, asked = streams(
        [event(1), event(2), rpc_error(None)], [rpc_error(None)], [event(3), cancelled], [full], [event(4), None]
    )

    assert [e.seq for e in read(attach)] == [1, 2, 3, 4]
    assert asked == [1, 3, 3, 4, 4]


def test_what_was_dropped_shows_as_a_gap():
    attach, _ = streams([event(1), rpc_error(None)], [event(5, "gap", "4"), event(6), event(9), None])

    assert [(e.seq, e.kind, e.text) for e in read(attach)] == [
        (1, "stdout", ""), (5, "gap", "4"), (6, "stdout", ""), (8, "gap", "2"), (9, "stdout", ""),
    ]  # fmt: skip


def test_a_server_that_stays_away_is_given_up():
    attach, asked = streams([event(1), rpc_error(None)])

    with pytest.raises(ServerUnreachable):
        read(attach)
    assert len(asked) > 3


@pytest.mark.parametrize("error", [NoSuchProcess("no such process: 7"), DeviceLost("the kernel is gone")])
def test_a_servers_word_is_final(error):
    attach, asked = streams([event(1), rpc_error(error)])

    with pytest.raises(type(error)):
        read(attach)
    assert asked == [1]


def test_a_server_that_was_never_reached_is_not_waited_for():
    attach, asked = streams([rpc_error(None)])

    with pytest.raises(ServerUnreachable):
        read(attach)
    assert asked == [1]


# ---- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    monkeypatch.delenv("SYMPHONY_PROGRESS", raising=False)


def looked(wanted, *, until=3):
    """Waits for a result until `until` looks were taken; gives the fake client."""

    async def main():
        client = FakeClient(event(1))
        enough = asyncio.Event()
        run = Run(client, seven, "prog")
        await anext(run)

        async def ps(pid, timeout_s):
            client.num_looks += 1
            if client.num_looks >= until:
                enough.set()
            return [Process.of(STAT)]

        client.ps = ps
        async with progress.showing_progress(client, run, wanted):
            if until:
                await enough.wait()
            else:
                await asyncio.sleep(0.01)
        return client

    return asyncio.run(main())


def test_a_terminal_shows_one_line_that_is_rewritten_and_taken_away(at_once, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())

    looked(True)

    *shown, last = terminal.getvalue().split("\r\x1b[K")[1:]
    assert set(shown) == {"process 1: running, 10 tokens in, 20 out, 3s, waits for generate, sleep"}
    assert last == ""


def test_the_setting_asks_for_it_too(at_once, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert looked(None, until=0).num_looks == 0
    monkeypatch.setenv("SYMPHONY_PROGRESS", "1")
    assert looked(None).num_looks >= 3
    assert looked(False, until=0).num_looks == 0


def test_what_goes_wrong_is_raised_as_it_is(at_once, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())

    async def main():
        await Run(FakeClient(event(1), error=ServerUnreachable("there", "gone")), seven, "prog").result(progress=True)

    with pytest.raises(ServerUnreachable):
        asyncio.run(main())


def test_nobody_looks_where_nobody_sees_it(at_once, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    assert looked(True, until=0).num_looks == 0


def test_a_notebook_shows_the_process_and_updates_it(at_once, monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda process: shown.append(("update", process.pid)))

    def display(process, display_id):
        shown.append(("display", process.pid))
        return handle

    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    looked(True)

    assert shown[:2] == [("display", 1), ("update", 1)]
