"""Programs as models over a kernel that is made up: what is rare on a real one."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_symphony.abi.calls import AttachPart, PidResult
from vllm_symphony.abi.types import Credentials, ExitStatus, ProcessEvent, ProgramInfo, Usage
from vllm_symphony.edge.audit import Audit
from vllm_symphony.errors import BrokenPipe, DeviceLost, Interrupted, NoSuchFile, SymphonyError
from vllm_symphony.kernel import registry
from vllm_symphony.web import lip_model
from vllm_symphony.web.answer import Answer

ANN = Credentials("ann", scopes=("run",))
PID = 7


def info(mode: int = 0o755, group: str = "team", version: str = "1.0") -> ProgramInfo:
    return ProgramInfo("ops/x", version, "ops", "0" * 64, 1, "python", "main", "", "", 0, mode, group)


class Link:
    """A kernel with one program, whose output and end are given."""

    def __init__(self, *parts: AttachPart | Exception, end: ExitStatus | None = None) -> None:
        self.lost = asyncio.Event()
        self.parts, self.end = list(parts), end or ExitStatus(0, "exit", "null")
        self.posted: list[tuple[str, Any]] = []
        self.attached: list[int] = []

    async def call(self, op: str, args: Any, cred: Credentials, **beside: Any) -> Any:
        usage = Usage(tokens_in=2, tokens_out=1)
        return {
            "programs": lambda: SimpleNamespace(programs=(info(),)),
            "spawn": lambda: PidResult(PID),
            "ps": lambda: SimpleNamespace(processes=(SimpleNamespace(exit=self.end, name="ops/x"),)),
            "getrusage": lambda: SimpleNamespace(usage=usage, children=usage),
        }[op]()

    async def stream(self, op: str, args: Any, cred: Credentials) -> AsyncIterator[AttachPart]:
        self.attached.append(args.from_seq)
        while self.parts:
            part = self.parts.pop(0)
            if isinstance(part, Exception):
                raise part
            yield part

    def post(self, op: str, args: Any, cred: Credentials) -> None:
        self.posted.append((op, args))


def part(seq: int, kind: str, text: str) -> AttachPart:
    return AttachPart((ProcessEvent(seq, 0, kind, text, PID),))


def ask(link: Link, *, stream: bool = False) -> list[dict[str, Any]]:
    """What is sent to the client, who stays."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    body = {"model": "lip:ops/x", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    form = lip_model.FORMS["/v1/chat/completions"]
    asyncio.run(lip_model.serve(link, Audit(None), ANN, form, body, receive, Answer(send)))  # type: ignore[arg-type]
    return sent


def said(sent: list[dict[str, Any]]) -> Any:
    return json.loads(b"".join(m.get("body", b"") for m in sent))


def test_a_reader_that_was_cut_off_goes_on_where_it_was():
    link = Link(part(1, "stdout", "a"), BrokenPipe("too slow"), part(2, "stdout", "b"), part(3, "stderr", "no"))

    answer = said(ask(link))

    assert answer["choices"][0]["message"]["content"] == "ab"
    assert answer["usage"]["total_tokens"] == 6
    assert link.attached == [1, 2] and link.posted == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_with_a_hole_is_none_and_its_program_ends(stream):
    link = Link(part(1, "stdout", "a"), part(9, "gap", "7"), part(10, "stdout", "b"))

    with pytest.raises(BrokenPipe, match="7 events"):
        ask(link, stream=stream)

    assert [op for op, _ in link.posted] == ["kill"]


@pytest.mark.parametrize(("end", "error"), [
    (ExitStatus(1, "exception", error="vllm_symphony.errors.NoSuchFile: ENOENT: no such file: /x"), NoSuchFile),
    (ExitStatus(1, "exception", error="NoSuchFile: ENOENT: no such file: /x"), NoSuchFile),
    (ExitStatus(1, "exception", error="ValueError: NOTHING: of ours"), SymphonyError),
    (ExitStatus(70, "device", error="the device was lost"), DeviceLost),
    (ExitStatus(137, "signal"), Interrupted),
    (ExitStatus(130, "cancelled", error="cancelled"), Interrupted),
    (ExitStatus(159, "denied"), SymphonyError),
])  # fmt: skip
def test_how_it_ended_is_the_error(end, error):
    link = Link(end=end)

    with pytest.raises(SymphonyError) as failed:
        ask(link)

    assert type(failed.value) is error


def test_who_may_run_is_decided_as_the_kernel_does():
    creds = [
        Credentials("ops"),
        ANN,
        Credentials("bob", groups=("team",)),
        Credentials("team"),
        Credentials("root", scopes=("admin",)),
    ]

    for mode, cred in itertools.product(range(0o1000), creds):
        assert lip_model.may_run(info(mode), cred) == registry.allows(info(mode), cred, registry.MAY_RUN), (oct(mode), cred)
