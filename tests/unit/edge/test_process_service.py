"""Streams of the process service over a link that breaks."""

import asyncio
from contextlib import aclosing

import pytest

from tests.unit.trace.records import call, step
from vllm_symphony.abi.calls import AttachPart, Getrlimit, PidResult, RlimitResult, Strace, StracePart
from vllm_symphony.abi.types import Credentials, ProcessEvent, ResourceLimits
from vllm_symphony.edge.looking import Looks
from vllm_symphony.edge.process_service import ProcessService
from vllm_symphony.errors import BadProgram, BrokenPipe, DeviceLost
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


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Context:
    """Of an RPC of the server's own user."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("traceparent", TRACE),)


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


class Asked:
    """Notes the calls that it is asked to make; `answer` is all that it says."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def call(self, op, args, cred, **beside):
        self.asked.append((op, args))
        return self.answer


def test_a_program_that_runs_is_a_text_a_module_or_an_installed_one_with_what_it_is_given(monkeypatch):
    monkeypatch.setattr("vllm_symphony.edge.process_service.caller", lambda context: ME)
    link = Asked(PidResult(7))
    program = pb.Program(program="ops/a@1", limits=pb.ResourceLimits(tokens=0), tools=["web.*"], stdin=True)

    asyncio.run(ProcessService(link, Looks()).Spawn(pb.SpawnRequest(program=program), Context()))

    ((_, args),) = link.asked
    assert (args.source, args.code, args.program, args.tools, args.stdin) == (None, b"", "ops/a@1", ("web.*",), True)
    assert (args.limits, args.detach, args.traceparent) == (ResourceLimits(tokens=0), True, TRACE)


@pytest.mark.parametrize("program", [pb.Program(), pb.Program(source=" \n"), pb.Program(stdin=True)])
def test_a_program_of_nothing_is_refused_at_the_door(monkeypatch, program):
    monkeypatch.setattr("vllm_symphony.edge.process_service.caller", lambda context: ME)
    link = Asked(PidResult(7))

    with pytest.raises(BadProgram, match="the program is empty"):
        asyncio.run(ProcessService(link, Looks()).Spawn(pb.SpawnRequest(program=program), Context()))
    assert link.asked == []


def test_limits_of_nobody_in_particular_are_those_of_the_callers_principal(monkeypatch):
    for module in ("process_service", "one_call"):
        monkeypatch.setattr(f"vllm_symphony.edge.{module}.caller", lambda context: ME)
    link = Asked(RlimitResult(ResourceLimits(), ResourceLimits(tokens=3)))
    service = ProcessService(link, Looks())

    shown = asyncio.run(service.GetLimits(pb.GetLimitsRequest(), Context()))
    asyncio.run(service.GetLimits(pb.GetLimitsRequest(pid=9), Context()))

    assert [args for _, args in link.asked] == [Getrlimit(principal="me"), Getrlimit(9)]
    assert (shown.used.tokens, shown.limits.HasField("tokens")) == (3, False)
