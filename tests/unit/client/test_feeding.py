"""A program's standard input: in order, in pieces, patiently; and what becomes of it when the program wants no more."""

import asyncio

import pytest

from tests.unit.client.test_run import FakeClient, event, seven
from vllm_symphony.client import feeding
from vllm_symphony.client.feeding import PIECE_BYTES, feed_patiently
from vllm_symphony.client.retry import Retry
from vllm_symphony.client.run import Run
from vllm_symphony.errors import BrokenPipe, InvalidArgument, NoSuchProcess, WouldBlock


class Fed(FakeClient):
    """Notes what it is fed; its program ends once its input is closed. `error` is raised by the first feed."""

    def __init__(self, *events, error=None):
        super().__init__(*events)
        self.fed, self.closed, self.wrong = [], asyncio.Event(), error

    async def feed(self, pid, data, *, eof):
        assert pid == 7
        if self.wrong is not None:
            self.closed.set()
            raise self.wrong
        self.fed.append((data, eof))
        if eof:
            self.closed.set()

    async def kill(self, pid, signal="TERM", timeout_s=None):
        self.killed.append(signal)
        self.closed.set()

    async def attach(self, pid, from_seq=1):
        for e in self.events:
            yield e
        await self.closed.wait()


async def in_pieces(*pieces, error=None):
    for piece in pieces:
        yield piece
    if error is not None:
        raise error


@pytest.mark.parametrize(
    ("stdin", "fed"),
    [
        (b"\xff\x00", [(b"\xff\x00", True)]),
        ("hé\n", [("hé\n".encode(), True)]),
        (b"", [(b"", True)]),
        (lambda: in_pieces(b"a", b"b"), [(b"a", False), (b"b", False), (b"", True)]),
    ],
)
def test_a_run_feeds_its_input_to_the_end_and_closes_it(stdin, fed):
    async def main():
        client = Fed(event(1))
        await Run(client, seven, "prog", stdin=stdin() if callable(stdin) else stdin).result()
        return client.fed

    assert asyncio.run(main()) == fed


@pytest.mark.parametrize("error", [BrokenPipe("closed"), NoSuchProcess("it ended")])
def test_a_program_that_wants_no_more_is_no_error(error):
    async def main():
        client = Fed(error=error)
        result = await Run(client, seven, "prog", stdin=b"x" * 100).result()
        return result.value, client.killed

    assert asyncio.run(main()) == (5, [])


def test_input_that_fails_ends_the_program_and_is_raised_to_its_reader():
    async def main():
        client = Fed(event(1))
        run = Run(client, seven, "prog", stdin=in_pieces(b"a", error=OSError("the disk is gone")))
        with pytest.raises(OSError, match="the disk is gone"):
            await run.result()
        return client.killed

    assert asyncio.run(main()) == ["TERM"]


def test_a_run_that_is_left_stops_feeding():
    async def main():
        client, asked = Fed(event(1)), asyncio.Event()

        async def never():
            asked.set()
            await asyncio.Event().wait()
            yield b""

        run = Run(client, seven, "prog", stdin=never())
        await anext(run)
        await asked.wait()
        await run.aclose()
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("stdin")], client.killed

    assert asyncio.run(main()) == ([], ["TERM"])


def test_a_run_is_fed_held_and_let_go_by_hand_once_it_was_started():
    async def main():
        client = Fed(event(1))
        run = Run(client, seven, "prog", stdin=True)
        with pytest.raises(InvalidArgument, match="prog was not started yet"):
            await run.feed(b"early")
        await anext(run)
        await run.feed("a")
        await run.stop()
        await run.cont()
        await run.feed(eof=True)
        await run.result()
        return client.fed, client.killed

    fed, signals = asyncio.run(main())
    assert fed == [("a", False), (b"", True)]
    assert signals == ["STOP", "CONT"]


def test_a_large_input_goes_in_pieces_of_which_only_the_last_closes_it():
    fed = []

    async def once(piece, eof):
        fed.append((len(piece), eof))

    asyncio.run(feed_patiently(once, bytes(2 * PIECE_BYTES + 5), True))

    assert fed == [(PIECE_BYTES, False), (PIECE_BYTES, False), (5, True)]


def test_a_piece_that_there_is_no_room_for_is_fed_again_until_there_is(monkeypatch):
    monkeypatch.setattr(feeding, "FULL", Retry(first_s=0.0001, most_s=0.0001))
    fed, refusals = [], [WouldBlock("full"), WouldBlock("full", retry_after_s=0.0002)]

    async def once(piece, eof):
        if piece == b"x" and refusals:
            raise refusals.pop()
        fed.append((piece, eof))

    asyncio.run(feed_patiently(once, b"x", False))

    assert (fed, refusals) == ([(b"x", False)], [])
