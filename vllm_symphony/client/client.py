"""The client (client/client.py): each method is one RPC of symphony.v1, with plain values in and out.

What the calls mean and which errors they raise stands in protos/symphony/v1; the errors are the classes of vllm_symphony/errors.py.
Every method may raise ServerUnreachable.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from vllm_symphony.abi.calls import StracePart, WhyResult
from vllm_symphony.abi.types import FileStat, ModelInfo, ProcessEvent, ProcessStat, Signal
from vllm_symphony.client.address import target_of
from vllm_symphony.client.call import each, once
from vllm_symphony.client.channel import Access, Tls, tls_for
from vllm_symphony.client.run import Program, Run, RunResult
from vllm_symphony.client.token import token_for
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.proto.message import from_message, number_of
from vllm_symphony.proto.v1 import (
    file_pb2,
    file_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    process_pb2,
    process_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)


@dataclass(frozen=True, slots=True)
class FileText:
    """Tokens of a file, their positions, and the text when it was asked for. `length` is the whole file's."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    length: int
    text: str | None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server: versions, model, and `detail`: the kernel's and engine's counters by name."""

    version: str
    abi: str
    uptime_s: float
    model: str
    detail: Mapping[str, Any]


def connect(target: str | os.PathLike[str] | None = None, *, token: str | None = None, tls: Tls | None = None) -> Client:
    """A client of the server at `target`: a unix socket's path, HOST:PORT or grpcs://HOST:PORT. Use it in `async with`.

    What is not given is found as address.py, token.py and channel.py tell.

    Raises:
        InvalidArgument: target, token and TLS do not fit together; another machine is reached by TLS only.
        AccessDenied: a token file cannot be read or is not private.
        NameTooLong: no socket can have this path.
    """
    where = target_of(target)
    return Client(Access(where, token_for(where, token), tls_for(where, tls)))


class Client:
    """A connection. Made by `connect`; usable inside its `async with`, by any number of tasks."""

    def __init__(self, access: Access) -> None:
        self.target = str(access.target)
        self._access = access

    async def __aenter__(self) -> Client:
        self._channel = self._access.open()
        self._process: process_pb2_grpc.ProcessServiceAsyncStub = process_pb2_grpc.ProcessServiceStub(self._channel)
        self._file: file_pb2_grpc.FileServiceAsyncStub = file_pb2_grpc.FileServiceStub(self._channel)
        self._model: model_pb2_grpc.ModelServiceAsyncStub = model_pb2_grpc.ModelServiceStub(self._channel)
        self._system: system_pb2_grpc.SystemServiceAsyncStub = system_pb2_grpc.SystemServiceStub(self._channel)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        await self._channel.close()

    # ---- processes

    def run(self, program: str | os.PathLike[str] | Program, /, **args: Any) -> Run:
        """Run a program (its path, its text or a `Program`) with these arguments; nothing happens before the first read."""
        request = process_pb2.RunRequest(program=_program(Program.of(program), args))
        return Run(lambda: each(self.target, self._process.Run(request)))

    async def spawn(self, program: str | os.PathLike[str] | Program, /, **args: Any) -> int:
        """Start a program that outlives this client; gives its pid."""
        request = process_pb2.SpawnRequest(program=_program(Program.of(program), args))
        return int((await once(self.target, self._process.Spawn(request))).pid)

    async def attach(self, pid: int, *, from_seq: int = 1, follow: bool = True) -> AsyncGenerator[ProcessEvent, None]:
        """The events of a process from number `from_seq` on, until it ends (`follow`) or until no more are kept."""
        request = process_pb2.AttachRequest(pid=pid, from_seq=from_seq, follow=follow)
        async for response in each(self.target, self._process.Attach(request)):
            for event in response.events:
                yield from_message(event)

    async def logs(self, pid: int) -> list[ProcessEvent]:
        """The events of a process that are kept now."""
        return [event async for event in self.attach(pid, follow=False)]

    async def wait(self, pid: int, timeout_s: float | None = None) -> RunResult:
        """Until the process ended; how it did."""
        response = await once(self.target, self._process.Wait(process_pb2.WaitRequest(pid=pid, timeout_s=timeout_s)))
        return RunResult(from_message(response.exit), from_message(response.process))

    async def kill(self, pid: int, signal: str = Signal.TERM) -> None:
        """Send TERM or KILL."""
        number = number_of(process_pb2.Signal.DESCRIPTOR, signal)
        if not number:
            raise InvalidArgument(f"no such signal: {signal} (TERM, KILL)")
        request = process_pb2.KillRequest(pid=pid)
        request.signal = number  # type: ignore[assignment]
        await once(self.target, self._process.Kill(request))

    async def ps(self, pid: int | None = None) -> list[ProcessStat]:
        """Processes, by pid; those that ended not long ago too."""
        response = await once(self.target, self._process.ListProcesses(process_pb2.ListProcessesRequest(pid=pid)))
        return [from_message(p) for p in response.processes]

    async def strace(
        self, pid: int | None = None, *, follow: bool = False, children: bool = False, steps: bool = False
    ) -> AsyncGenerator[StracePart, None]:
        """The event log, in parts: of one process, with `children` of all that it spawned, or of all that the caller may see."""
        request = process_pb2.StraceRequest(pid=pid, follow=follow, children=children, steps=steps)
        async for r in each(self.target, self._process.Strace(request)):
            yield StracePart(tuple(map(from_message, r.records)), tuple(map(from_message, r.steps)), r.missing)

    async def why(self, pid: int) -> WhyResult:
        """What each thread of a process waits for."""
        response = await once(self.target, self._process.Why(process_pb2.WhyRequest(pid=pid)))
        return WhyResult(from_message(response.process), tuple(map(from_message, response.threads)))

    # ---- files

    async def ls(self, prefix: str = "/") -> list[FileStat]:
        """Named files whose path begins with `prefix`, by name."""
        response = await once(self.target, self._file.ListFiles(file_pb2.ListFilesRequest(prefix=prefix)))
        return [from_message(f) for f in response.files]

    async def stat(self, path: str) -> FileStat:
        """One file."""
        stat: FileStat = from_message((await once(self.target, self._file.Stat(file_pb2.StatRequest(path=path)))).file)
        return stat

    async def cat(self, path: str, *, offset: int = 0, count: int | None = None, text: bool = True) -> FileText:
        """Tokens [offset, offset + count) of a file."""
        request = file_pb2.ReadRequest(path=path, offset=offset, count=count, text=text)
        r = await once(self.target, self._file.Read(request))
        return FileText(tuple(r.tokens), tuple(r.positions), r.length, r.text if r.HasField("text") else None)

    async def rm(self, path: str) -> None:
        """Take a name away."""
        await once(self.target, self._file.Unlink(file_pb2.UnlinkRequest(path=path)))

    async def mv(self, old: str, new: str) -> None:
        """Give a file another name, replacing what has it."""
        await once(self.target, self._file.Rename(file_pb2.RenameRequest(old_path=old, new_path=new)))

    # ---- model and server

    async def model(self) -> ModelInfo:
        """The model and its limits."""
        response = await once(self.target, self._model.GetModel(model_pb2.GetModelRequest()))
        model: ModelInfo = from_message(response.model)
        return model

    async def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text."""
        return list((await once(self.target, self._model.Tokenize(model_pb2.TokenizeRequest(text=text, plain=not special)))).tokens)

    async def detokenize(self, tokens: list[int], *, skip_special: bool = True) -> str:
        """The text of token ids."""
        request = model_pb2.DetokenizeRequest(tokens=tokens, keep_special=not skip_special)
        return (await once(self.target, self._model.Detokenize(request))).text

    async def ping(self) -> float:
        """Seconds that the edge waited for the kernel's answer."""
        return (await once(self.target, self._system.Ping(system_pb2.PingRequest()))).kernel_s

    async def info(self) -> ServerInfo:
        """Versions, model, counters."""
        r = await once(self.target, self._system.GetInfo(system_pb2.GetInfoRequest()))
        return ServerInfo(r.version, f"{r.abi_major}.{r.abi_minor}", r.uptime_s, r.model, json.loads(r.detail or "{}"))


def _program(program: Program, args: Mapping[str, Any]) -> process_pb2.Program:
    try:
        text = json.dumps(args)
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"program arguments must be JSON: {e}") from None
    return process_pb2.Program(source=program.source, entry=program.entry, args=text, name=program.name)
