"""The client (client/client.py): each method is one RPC of symphony.v1, with plain values in and out. Files: files.py, packs.py.

What the calls mean and which errors they raise stands in protos/symphony/v1; the errors are the classes of vllm_symphony/errors.py.
Every method may raise ServerUnreachable. What changes something carries a `request_id`, so that it can be tried again (retry.py).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakSet

from vllm_symphony.abi.calls import RlimitResult, RusageResult, SchedResult, StracePart, WhyResult
from vllm_symphony.abi.types import MetricSample, ModelInfo, ProcessEvent, ResourceLimits, Signal
from vllm_symphony.client.address import target_of
from vllm_symphony.client.call import Caller, each
from vllm_symphony.client.channel import Access, Tls, tls_for
from vllm_symphony.client.display import Process, ProcessList
from vllm_symphony.client.feeding import Stdin, feed_patiently
from vllm_symphony.client.files import Files
from vllm_symphony.client.follow import follow as events
from vllm_symphony.client.packs import Packs
from vllm_symphony.client.registry import Registry
from vllm_symphony.client.retry import Retry
from vllm_symphony.client.run import Program, Run, RunResult
from vllm_symphony.client.session import Session, source_of
from vllm_symphony.client.talk import Talk
from vllm_symphony.client.token import token_for
from vllm_symphony.errors import InvalidArgument, TimedOut
from vllm_symphony.lip.program import abi_of
from vllm_symphony.proto.message import from_message, number_of, read_as, to_message
from vllm_symphony.proto.v1 import (
    channel_pb2_grpc,
    file_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    process_pb2,
    process_pb2_grpc,
    registry_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    tool_pb2_grpc,
)

T = TypeVar("T")
WAIT_SLACK_S = 5.0  # of a wait's deadline, above the time-out that the server counts


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server: versions, model, and `detail`: the kernel's and engine's counters by name."""

    version: str
    abi: str
    uptime_s: float
    model: str
    detail: Mapping[str, Any]


def connect(
    target: str | os.PathLike[str] | None = None, *, token: str | None = None, tls: Tls | None = None, retry: Retry | None = None
) -> Client:
    """A client of the server at `target`: a unix socket's path, HOST:PORT or grpcs://HOST:PORT. Use it in `async with`.

    What is not given is found as address.py, token.py and channel.py tell. `retry`: when calls are made again (`Retry(tries=1)`:
    never).

    Raises:
        InvalidArgument: target, token and TLS do not fit together; another machine is reached by TLS only.
        AccessDenied: a token file cannot be read or is not private.
        NameTooLong: no socket can have this path.
    """
    where = target_of(target)
    return Client(Access(where, token_for(where, token), tls_for(where, tls)), retry or Retry())


class Client(Files, Packs, Registry, Talk):
    """A connection. Made by `connect`; usable inside its `async with`, by any number of tasks.

    `timeout_s` is a call's deadline: TimedOut when it passed, and the server stops working on the call. The keywords of `run` and
    `spawn` that they do not name are the program's; bound them by `asyncio.timeout`.
    """

    def __init__(self, access: Access, retry: Retry) -> None:
        self.target = str(access.target)
        self._access = access
        self._retry = retry
        self._caller = Caller(self.target, retry)
        self._ask = self._caller.ask
        self._runs: WeakSet[Run] = WeakSet()
        self._channel: Any = None

    async def __aenter__(self) -> Client:
        self._channel = self._access.open(keepalive=True)
        self._process: process_pb2_grpc.ProcessServiceAsyncStub = process_pb2_grpc.ProcessServiceStub(self._channel)
        self._file: file_pb2_grpc.FileServiceAsyncStub = file_pb2_grpc.FileServiceStub(self._channel)
        self._model: model_pb2_grpc.ModelServiceAsyncStub = model_pb2_grpc.ModelServiceStub(self._channel)
        self._system: system_pb2_grpc.SystemServiceAsyncStub = system_pb2_grpc.SystemServiceStub(self._channel)
        self._registry: registry_pb2_grpc.RegistryServiceAsyncStub = registry_pb2_grpc.RegistryServiceStub(self._channel)
        self._tool: tool_pb2_grpc.ToolServiceAsyncStub = tool_pb2_grpc.ToolServiceStub(self._channel)
        self._talk: channel_pb2_grpc.ChannelServiceAsyncStub = channel_pb2_grpc.ChannelServiceStub(self._channel)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            for run in list(self._runs):
                await run.aclose()
        finally:
            if self._channel is not None:
                await self._channel.close()

    # ---- remote programs

    def session(self, *, lease_s: float = 60.0, name: str = "", program: str | os.PathLike[str] | Program | None = None) -> Session:
        """A remote program: inside of its `async with`, `lip` speaks to the server. It outlives a lost connection by `lease_s`.

        `program`: this program's file or text (`__file__`), for children that run a function of it.
        """
        return Session(self._access, self._retry, lease_s, name, program)

    async def run_here(self, main: Callable[..., Awaitable[T] | T], /, **args: Any) -> T:
        """Run `main` in this process as a remote program, and give what it returned. Raises what `session` and `main` raise."""
        async with self.session(name=getattr(main, "__name__", ""), program=source_of(main)) as session:
            made = main(**args)
            value: T = await made if inspect.isawaitable(made) else made
            session.value = value
            return value

    # ---- processes

    def run(
        self,
        program: str | bytes | os.PathLike[str] | Program,
        /,
        *,
        limits: ResourceLimits | None = None,
        tools: Sequence[str] = (),
        stdin: Stdin = None,
        **args: Any,
    ) -> Run:
        """Run a program with these arguments; nothing happens before the first read.

        program   its path (.py, .wasm), its text, a module's bytes, the name of an installed one, or a `Program`
        limits    of it and all that it spawns; None: the server's
        tools     globs of the tools that it may call
        stdin     its standard input: bytes, a text, or pieces of bytes as they come; True: by `Run.feed`
        """
        program = Program.of(program)
        has_input = stdin is not None and stdin is not False
        start = partial(self.spawn, program, limits=limits, tools=tools, stdin=has_input, **args)
        run = Run(self, start, program.name, stdin=stdin)
        self._runs.add(run)
        return run

    async def spawn(
        self,
        program: str | bytes | os.PathLike[str] | Program,
        /,
        *,
        limits: ResourceLimits | None = None,
        tools: Sequence[str] = (),
        stdin: bool = False,
        **args: Any,
    ) -> int:
        """Start a program that outlives this client; gives its pid. What it takes is told by `run`; `stdin`: by `feed`."""
        made = _program(Program.of(program), args)
        if limits is not None:
            to_message(limits, made.limits)
            made.limits.SetInParent()
        made.tools.extend(tools)
        made.stdin = stdin
        request = process_pb2.SpawnRequest(program=made, request_id=uuid4().hex)
        return (await self._ask(self._process.Spawn, request)).pid

    async def feed(self, pid: int, data: bytes | str = b"", *, eof: bool = False, timeout_s: float | None = None) -> None:
        """Write to a program's standard input, and with `eof` close it; waits while it has too much unread."""

        async def once(piece: bytes, is_last: bool) -> None:
            request = process_pb2.FeedRequest(pid=pid, data=piece, eof=is_last, request_id=uuid4().hex)
            await self._ask(self._process.Feed, request)

        try:
            async with asyncio.timeout(timeout_s):
                await feed_patiently(once, data.encode() if isinstance(data, str) else data, eof)
        except TimeoutError:
            raise TimedOut(f"process {pid} did not read its input within {timeout_s:g} s", pid=pid) from None

    def attach(self, pid: int, *, from_seq: int = 1, follow: bool = True) -> AsyncGenerator[ProcessEvent, None]:
        """The events of a process from number `from_seq` on, until it ends (`follow`) or until no more are kept.

        A connection that broke is made again; events that the server dropped show as one of kind `gap`.
        """
        return events(
            self._caller,
            lambda seq: self._process.Attach(process_pb2.AttachRequest(pid=pid, from_seq=seq, follow=follow)),
            from_seq,
        )

    async def logs(self, pid: int, *, timeout_s: float | None = None) -> list[ProcessEvent]:
        """The events of a process that are kept now."""
        try:
            async with asyncio.timeout(timeout_s):
                async with aclosing(self.attach(pid, follow=False)) as kept:
                    return [event async for event in kept]
        except TimeoutError:
            raise TimedOut(f"the events of process {pid} did not come within {timeout_s:g} s", pid=pid) from None

    async def wait(self, pid: int, timeout_s: float | None = None) -> RunResult:
        """Until the process ended; how it did."""
        request = process_pb2.WaitRequest(pid=pid, timeout_s=timeout_s)
        deadline_s = None if timeout_s is None else timeout_s + WAIT_SLACK_S  # the server says it better
        response = await self._ask(self._process.Wait, request, deadline_s, patient=True)
        return RunResult(from_message(response.exit), Process.of(from_message(response.process)))

    async def kill(self, pid: int, signal: str = Signal.TERM, *, timeout_s: float | None = None) -> None:
        """Send TERM, KILL, STOP or CONT."""
        number = number_of(process_pb2.Signal.DESCRIPTOR, signal)
        if not number:
            raise InvalidArgument(f"no such signal: {signal} ({', '.join(Signal)})")
        request = process_pb2.KillRequest(pid=pid, request_id=uuid4().hex)
        request.signal = number  # type: ignore[assignment]
        await self._ask(self._process.Kill, request, timeout_s)

    async def ps(self, pid: int | None = None, *, timeout_s: float | None = None) -> ProcessList:
        """Processes, by pid; those that ended not long ago too. It prints as a tree."""
        response = await self._ask(self._process.ListProcesses, process_pb2.ListProcessesRequest(pid=pid), timeout_s)
        return ProcessList(Process.of(from_message(p)) for p in response.processes)

    async def strace(
        self, pid: int | None = None, *, follow: bool = False, children: bool = False, steps: bool = False
    ) -> AsyncGenerator[StracePart, None]:
        """The event log, in parts: of one process, with `children` of all that it spawned, or of all that the caller may see."""
        request = process_pb2.StraceRequest(pid=pid, follow=follow, children=children, steps=steps)
        async with aclosing(each(self.target, self._process.Strace(request))) as responses:
            async for r in responses:
                yield StracePart(tuple(map(from_message, r.records)), tuple(map(from_message, r.steps)), r.missing)

    async def why(self, pid: int, *, timeout_s: float | None = None) -> WhyResult:
        """What each thread of a process waits for."""
        response = await self._ask(self._process.Why, process_pb2.WhyRequest(pid=pid), timeout_s)
        return WhyResult(from_message(response.process), tuple(map(from_message, response.threads)))

    async def limits(self, pid: int | None = None, *, principal: str | None = None, timeout_s: float | None = None) -> RlimitResult:
        """What a process with all below it, or a principal with all its programs, may use, and has used; of neither: yours."""
        request = process_pb2.GetLimitsRequest(pid=pid, principal=principal)
        return read_as(RlimitResult, await self._ask(self._process.GetLimits, request, timeout_s))

    async def set_limits(
        self, limits: ResourceLimits, pid: int | None = None, *, principal: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Lower limits of a process, field by field; scope admin may raise them, and sets those of principals (below 0: none)."""
        request = process_pb2.SetLimitsRequest(pid=pid, principal=principal, request_id=uuid4().hex)
        to_message(limits, request.limits)
        await self._ask(self._process.SetLimits, request, timeout_s)

    async def usage(self, pid: int, *, timeout_s: float | None = None) -> RusageResult:
        """What a process has used, its children, and each of its threads."""
        return read_as(RusageResult, await self._ask(self._process.GetUsage, process_pb2.GetUsageRequest(pid=pid), timeout_s))

    # ---- scheduling

    async def sched(self, *, timeout_s: float | None = None) -> SchedResult:
        """Which policies decide who computes, who waits, and what part of the device you have (scope admin: everybody)."""
        return read_as(SchedResult, await self._ask(self._system.GetSched, system_pb2.GetSchedRequest(), timeout_s))

    async def set_policy(
        self, level: str, policy: str = "", parameters: Mapping[str, float] | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Let a policy decide at a level (`process`, `memory`, `batch`) from here on; none: that of the start. Scope admin."""
        request = system_pb2.SetSchedRequest(level=level, policy=policy, parameters=parameters or {}, request_id=uuid4().hex)
        await self._ask(self._system.SetSched, request, timeout_s)

    async def set_weight(
        self, principal: str, weight: float | None = None, *, cap: int | None = None, timeout_s: float | None = None
    ) -> None:
        """Set a principal's part of the device, and the most of its calls that compute at once (below 0: any). Scope admin."""
        request = system_pb2.SetWeightRequest(principal=principal, weight=weight, cap=cap, request_id=uuid4().hex)
        await self._ask(self._system.SetWeight, request, timeout_s)

    # ---- model and server

    async def model(self, *, timeout_s: float | None = None) -> ModelInfo:
        """The model and its limits."""
        model: ModelInfo = from_message((await self._ask(self._model.GetModel, model_pb2.GetModelRequest(), timeout_s)).model)
        return model

    async def tokenize(self, text: str, *, special: bool = True, timeout_s: float | None = None) -> list[int]:
        """Token ids of a text."""
        request = model_pb2.TokenizeRequest(text=text, plain=not special)
        return list((await self._ask(self._model.Tokenize, request, timeout_s)).tokens)

    async def detokenize(self, tokens: list[int], *, skip_special: bool = True, timeout_s: float | None = None) -> str:
        """The text of token ids."""
        request = model_pb2.DetokenizeRequest(tokens=tokens, keep_special=not skip_special)
        return (await self._ask(self._model.Detokenize, request, timeout_s)).text

    async def ping(self, *, timeout_s: float | None = None) -> float:
        """Seconds that the edge waited for the kernel's answer."""
        return (await self._ask(self._system.Ping, system_pb2.PingRequest(), timeout_s)).kernel_s

    async def metrics(self, *, timeout_s: float | None = None) -> tuple[MetricSample, ...]:
        """All that the server counts (docs/metrics.md). Needs scope admin."""
        response = await self._ask(self._system.GetMetrics, system_pb2.GetMetricsRequest(), timeout_s)
        return tuple(map(from_message, response.samples))

    async def info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Versions, model, counters."""
        r = await self._ask(self._system.GetInfo, system_pb2.GetInfoRequest(), timeout_s)
        return ServerInfo(r.version, f"{r.abi_major}.{r.abi_minor}", r.uptime_s, r.model, json.loads(r.detail or "{}"))


def _program(program: Program, args: Mapping[str, Any]) -> process_pb2.Program:
    try:
        text = json.dumps({**program.args, **args})
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"program arguments must be JSON: {e}") from None
    return process_pb2.Program(
        source=program.source,
        entry=program.entry,
        args=text,
        name=program.name,
        abi=abi_of(program.source),
        code=program.code,
        program=program.installed,
        runtime=program.runtime,
    )
