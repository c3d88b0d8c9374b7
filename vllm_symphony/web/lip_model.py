"""A program as a model (web/lip_model.py): `model="lip:owner/name@version"`.

    find the version -> arguments (argument.py) -> spawn -> its output is the text -> how it ended is finish_reason or an error

What it prints or emits is the answer, as it comes; where it does neither, what its entry returns: a text as it is, else JSON. A
limit that was used up is `length`. An error that it did not catch is the request's: with its status before the first text, after it
as an event of the stream. Who hangs up ends the program (TERM).
"""

from __future__ import annotations

import asyncio
import glob
import json
import re
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.types import Receive

from vllm_symphony.abi.calls import Attach, Getrusage, Kill, Programs, ProgramsResult, Ps, Spawn
from vllm_symphony.abi.reference import Reference, reference
from vllm_symphony.abi.types import Credentials, ExitStatus, ProcessEvent, ProgramInfo
from vllm_symphony.abi.version import parse
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.errors import BY_REASON, BadProgram, BrokenPipe, DeviceLost, Interrupted, SymphonyError, from_reason
from vllm_symphony.trace.context import well_formed
from vllm_symphony.web.answer import Answer
from vllm_symphony.web.argument import arguments
from vllm_symphony.web.chat import Chat, Completions
from vllm_symphony.web.form import LENGTH, STOP, Count, Form, Outcome, Reply
from vllm_symphony.web.responses import Responses

MARK = "lip:"
FORMS: Mapping[str, Form] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
    "/v1/responses": Responses(),
}
_TYPED = re.compile(r"(?:\w+\.)*\w+: ([A-Z]+): (.*)", re.DOTALL)  # the last line of a traceback that ends with one of our errors


async def serve(
    link: KernelLink, audit: Audit, cred: Credentials, form: Form, body: Mapping[str, Any], receive: Receive, answer: Answer,
    traceparent: str = "",
) -> None:  # fmt: skip
    """Run the program and answer; `traceparent`: the header. Raises what keeps it from being run, or what it died of."""
    name = body["model"].removeprefix(MARK)
    info = await _find(link, name, cred)
    label = f"{info.name}@{info.version}" if info else name
    args = json.dumps(arguments(form, body, info.schema if info else ""))
    said = {"principal": cred.principal, "door": "http", "action": "spawn", "target": label}
    audit.demand(**said)
    wanted = Spawn(program=label, args=args, name=info.name if info else name, detach=True, traceparent=well_formed(traceparent))
    pid = (await link.call("spawn", wanted, cred)).pid
    has_ended = False
    try:
        audit.write(**said, outcome="OK", pid=pid)
        work = _answered(link, cred, form, Reply(body["model"], pid, body), answer)
        has_ended = await _while_there(receive, work)
    finally:
        if not has_ended:
            link.post("kill", Kill(pid), cred)


# ---- which program


async def _find(link: KernelLink, name: str, cred: Credentials) -> ProgramInfo | None:
    """The version that is meant: without one the latest that the caller may run. None: the kernel says what is wrong."""
    wanted = reference(name, cred.principal)
    listed: ProgramsResult = await link.call("programs", Programs(f"{glob.escape(wanted.full_name)}@*"), cred)
    chosen = next((info for info in listed.programs if _is_meant(info, wanted, cred)), None)
    if chosen is None or chosen.schema or len(listed.programs) == 1:
        return chosen
    one: ProgramsResult = await link.call(
        "programs", Programs(glob.escape(f"{chosen.name}@{chosen.version}")), cred
    )  # long lists leave schemas out
    return next(iter(one.programs), chosen)


def _is_meant(info: ProgramInfo, wanted: Reference, cred: Credentials) -> bool:
    version = parse(info.version)
    if wanted.version is not None:
        return version == wanted.version
    return not version.is_prerelease and may_run(info, cred)


def may_run(info: ProgramInfo, cred: Credentials) -> bool:
    """As the kernel will say: the x of its mode, as of a file."""
    if cred.principal == info.owner:
        bits = info.mode >> 6
    else:
        bits = info.mode >> 3 if info.group == cred.principal or info.group in cred.groups else info.mode
    return bool(bits & 1) or cred.is_admin


# ---- its answer


async def _answered(link: KernelLink, cred: Credentials, form: Form, reply: Reply, answer: Answer) -> None:
    """From the first event to the last. Raises what the program died of."""
    headers = {"x-symphony-pid": str(reply.pid)}
    stream = form.stream(reply) if reply.body.get("stream") else None
    pieces: list[str] = []

    async def put(text: str) -> None:
        if stream is not None:
            if not pieces:
                await answer.begin_stream(headers)
                await answer.events(stream.opening())
            await answer.events([stream.delta(text)])
        pieces.append(text)

    async with aclosing(_output(link, reply.pid, cred)) as output:
        async for text in output:
            await put(text)
    exit_, outcome = await _ended(link, reply.pid, cred)
    if not pieces:
        await put(_value_of(exit_))
    whole = "".join(pieces)
    if stream is None:
        await answer.json(form.whole(reply, whole, outcome), headers)
    else:
        await answer.events(stream.closing(whole, outcome))
        await answer.end()


async def _output(link: KernelLink, pid: int, cred: Credentials) -> AsyncGenerator[str, None]:
    """What it prints and emits, never empty. Raises BrokenPipe where some of it was lost, for nobody read it."""
    async with aclosing(_events(link, pid, cred)) as events:
        async for event in events:
            if text := _text_of(event):
                yield text


async def _events(link: KernelLink, pid: int, cred: Credentials) -> AsyncGenerator[ProcessEvent, None]:
    """All of them, over as many attaches as it takes."""
    attach = Attach(pid)
    while True:
        try:
            async with aclosing(link.stream("attach", attach, cred)) as parts:
                async for part in parts:
                    attach = replace(attach, from_seq=part.events[-1].seq + 1)
                    for event in part.events:
                        yield event
            return
        except BrokenPipe:
            if link.lost.is_set():
                raise
            continue  # the kernel cut us off: on from where it was


def _text_of(event: ProcessEvent) -> str:
    if event.kind == "gap":
        raise BrokenPipe(f"output of process {event.pid} was lost, for it was not read in time: {event.text} events", pid=event.pid)
    if event.kind == "emit":
        value = json.loads(event.text)
        return value if isinstance(value, str) else f"{event.text}\n"
    return event.text if event.kind == "stdout" else ""


def _value_of(status: ExitStatus) -> str:
    """What the entry returned, as text."""
    value = None if status.value is None else json.loads(status.value)
    return value if isinstance(value, str) else "" if value is None else status.value or ""


async def _ended(link: KernelLink, pid: int, cred: Credentials) -> tuple[ExitStatus, Outcome]:
    """How it ended, and what it used with all below it. Raises what it died of."""
    (stat,) = (await link.call("ps", Ps(pid), cred)).processes
    status = stat.exit
    if status.code != 0 and status.reason != "limit":
        raise _death(status, stat.name, pid)
    used = await link.call("getrusage", Getrusage(pid), cred)
    num_in = used.usage.tokens_in + used.children.tokens_in
    count = Count(num_in, used.usage.tokens_out + used.children.tokens_out)
    return status, Outcome(LENGTH if status.reason == "limit" else STOP, count)


def _death(status: ExitStatus, name: str, pid: int) -> SymphonyError:
    """The error of a program that did not end well: its own where it is one of ours."""
    said = status.error or status.reason
    typed = _TYPED.fullmatch(said)
    if typed and typed[1] in BY_REASON:
        return from_reason(typed[1], f"{name}: {typed[2]}", {"pid": pid})
    if status.reason == "program":
        return BadProgram(f"{name}: {said}", pid=pid)
    if status.reason == "device":
        return DeviceLost(f"{name}: {said}", pid=pid)
    if status.reason in ("cancelled", "signal"):
        return Interrupted(f"{name} was ended from outside ({said})", pid=pid)
    return SymphonyError(f"{name} failed with code {status.code}: {said}", pid=pid, exit_code=status.code)


# ---- its client


async def _while_there(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless the client hangs up; whether it was done. Raises what the work raises."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
