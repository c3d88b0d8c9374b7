"""Streams of the process service over a link that breaks."""

import asyncio
from contextlib import aclosing

import pytest

from tests.unit.trace.records import call, step
from vllm_symphony.abi.calls import AttachPart, Strace, StracePart
from vllm_symphony.abi.types import Credentials, ProcessEvent
from vllm_symphony.edge.looking import Looks
from vllm_symphony.edge.process_service import ProcessService
from vllm_symphony.errors import BrokenPipe, DeviceLost
from vllm_symphony.proto.v1 import process_pb2 as pb

ME = Credentials("me")


class Link:
    """Each stream gives the next list of parts, and breaks unless it is the last."""

    def __init__(self, *streams):
        self.streams = list(streams)
        self.asked = []

    async def stream(self, op, args, cred):
        self.asked.append((op, args))
        for part in self.streams.pop(0):
            yield part
        if self.streams:
            raise BrokenPipe("the reader was too slow")


class Endless:
    """Streams that say one thing and then nothing; `waits` is set from then on."""

    def __init__(self):
        self.waits = asyncio.Event()

    async def stream(self, op, args, cred):
        yield AttachPart((ProcessEvent(1, 0, "stdout", "x"),)) if op == "attach" else StracePart(())
        self.waits.set()
        await asyncio.Event().wait()


class Context:
    """Of an RPC of the server's own user."""


async def gathered(stream):
    async with aclosing(stream):
        return [part async for part in stream]


def test_a_strace_that_was_cut_off_goes_on_after_the_last_record_with_the_gap_and_each_step_once():
    link = Link(
        [StracePart((call(4), call(7)), (step(1, 0, 1),)), StracePart((), (step(2, 1, 2),))],
        [StracePart((call(30),), (step(1, 0, 1), step(2, 1, 2), step(3, 2, 3)), 22)],
    )

    parts = asyncio.run(gathered(ProcessService(link, Looks())._records(Strace(12, True), ME)))

    assert [args.from_seq for _, args in link.asked] == [1, 8]
    assert [r.seq for p in parts for r in p.records] == [4, 7, 30]
    assert [s.step for p in parts for s in p.steps] == [1, 2, 3]
    assert [p.missing for p in parts] == [0, 0, 22]


@pytest.mark.parametrize(
    ("rpc", "request_"), [("Attach", pb.AttachRequest(pid=1, follow=True)), ("Strace", pb.StraceRequest(follow=True))]
)
def test_looks_end_with_a_reason_when_the_server_stops(monkeypatch, rpc, request_):
    monkeypatch.setattr("vllm_symphony.edge.process_service.caller", lambda context: ME)

    async def main() -> None:
        link, looks = Endless(), Looks()
        service = ProcessService(link, looks)
        look = asyncio.create_task(gathered(getattr(service, rpc)(request_, Context())))
        await link.waits.wait()
        looks.end()
        with pytest.raises(DeviceLost, match="the server is stopping"):
            await look
        assert not looks._tasks

    asyncio.run(main())


def test_a_look_that_its_caller_cancels_is_cancelled(monkeypatch):
    monkeypatch.setattr("vllm_symphony.edge.process_service.caller", lambda context: ME)

    async def main() -> None:
        link = Endless()
        service = ProcessService(link, Looks())
        look = asyncio.create_task(gathered(service.Strace(pb.StraceRequest(follow=True), Context())))
        await link.waits.wait()
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look

    asyncio.run(main())


def test_a_look_whose_client_is_slow_to_take_a_part_ends_after_it(monkeypatch):
    monkeypatch.setattr("vllm_symphony.edge.process_service.caller", lambda context: ME)

    async def main() -> None:
        looks = Looks()
        service = ProcessService(Endless(), looks)
        stream = service.Attach(pb.AttachRequest(pid=1, follow=True), Context())
        await anext(stream)
        looks.end()  # while gRPC sends what it was given
        with pytest.raises(DeviceLost, match="the server is stopping"):
            await anext(stream)

    asyncio.run(main())
