"""The loop in a thread, and the client that is made from the asynchronous one."""

import asyncio
import inspect
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vllm_symphony.client import Client, Run, SyncClient, SyncRun
from vllm_symphony.client.portal import Portal

ROOT = Path(__file__).parent.parent.parent.parent


async def nothing():
    pass


@pytest.fixture
def portal():
    made = Portal(nothing)
    yield made
    made.close()


def test_the_generated_client_is_fresh():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "sync_client", "--check"], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("made", "source"), [(SyncClient, Client), (SyncRun, Run)])
def test_every_public_method_is_there_with_its_arguments_and_its_docstring(made, source):
    renamed = {"aclose": "close"}
    for name, method in inspect.getmembers(source, inspect.isfunction):
        if name.startswith("_") or name == "session":
            continue
        twin = getattr(made, renamed.get(name, name))
        assert list(inspect.signature(twin).parameters) == list(inspect.signature(method).parameters)
        assert inspect.getdoc(twin) == inspect.getdoc(method)


def test_work_runs_on_the_portals_own_thread_and_gives_its_result(portal):
    async def where():
        return threading.current_thread().name

    assert portal.call(where()) == portal.do(lambda: threading.current_thread().name) == "symphony client"


def test_errors_come_to_the_caller(portal):
    async def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        portal.call(fails())


def test_a_generator_becomes_an_iterator_that_closes_it(portal):
    closed = []

    async def count():
        try:
            for i in range(10):
                yield i
        finally:
            closed.append(True)

    assert list(portal.iterate(count)) == list(range(10))
    some = portal.iterate(count)
    assert [next(some), next(some)] == [0, 1]
    some.close()

    assert closed == [True, True]


def test_an_iterator_that_is_collected_on_the_portals_thread_is_closed_too(portal):
    closed = threading.Event()

    async def count():
        try:
            yield 1
        finally:
            closed.set()

    held = [portal.iterate(count)]
    assert next(held[0]) == 1
    portal.do(held.clear)

    assert closed.wait(10)


def test_an_interrupted_caller_cancels_its_work_and_waits_for_it(portal, monkeypatch):
    cleaned, started = [], threading.Event()

    async def work():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    class Interrupting:
        """A future whose waiter presses Ctrl-C."""

        def __init__(self, future):
            self.cancel = future.cancel

        def result(self):
            started.wait()
            raise KeyboardInterrupt

    submit = asyncio.run_coroutine_threadsafe
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", lambda work, loop: Interrupting(submit(work, loop)))
    with pytest.raises(KeyboardInterrupt):
        portal.call(work())
    monkeypatch.undo()

    assert cleaned == [True]


def test_its_own_loop_may_not_wait_for_itself(portal):
    async def inner():
        portal.call(nothing())

    with pytest.raises(RuntimeError, match="from its own loop"):
        portal.call(inner())


def test_after_the_close_nothing_runs_and_no_thread_is_left():
    said = []

    async def goodbye():
        said.append(threading.current_thread().name)

    portal = Portal(goodbye)
    portal.close()
    portal.close()

    assert said == ["symphony client"]
    assert "symphony client" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(RuntimeError, match="after it was closed"):
        portal.call(nothing())
