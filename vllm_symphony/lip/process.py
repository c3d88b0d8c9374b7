"""Processes as programs see them (lip/process.py): start another program beside this one, feed it, wait for its value.

    child = await lip.spawn(summarise, "/kb/report")                      a top-level function of this program
    child = await lip.spawn(source_text, topic="tides", tools=[])         another program: its `main`
    child = await lip.spawn(program="ops/triage@1.2", task="...")         an installed one
    child = await lip.spawn(code=module, stdin=True)                      a WebAssembly module
    value = await child.wait()

Arguments and values travel as JSON, open files by `fds`. A child ends with its parent, except when it was detached, and never has
more than its parent has: limits, tools, paths.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.calls import Kill, NoArgs, Ps, RusageResult, Spawn, Wait
from vllm_symphony.abi.types import ExitStatus, ProcessStat, ResourceLimits, Signal
from vllm_symphony.errors import BadProgram, InvalidArgument
from vllm_symphony.lip import program as text_of
from vllm_symphony.lip import transport
from vllm_symphony.lip.file import File
from vllm_symphony.lip.text import to_json

Limits = ResourceLimits


class ProgramFailed(Exception):
    """A child did not end well; `status` says how, `pid` who."""

    def __init__(self, pid: int, status: ExitStatus) -> None:
        super().__init__(f"process {pid} ended with code {status.code} ({status.error or status.reason})")
        self.pid = pid
        self.status = status


class Process:
    """A child of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: ExitStatus | None = None
        self._stat: ProcessStat | None = None

    async def wait(self, *, timeout_s: float | None = None) -> Any:
        """The value that its `main` returned, once it ended.

        Raises:
            ProgramFailed: it raised, was killed or cancelled, or used up a limit.
            TimedOut: it still runs after `timeout_s`.
        """
        status = await self.status(timeout_s=timeout_s)
        if status.code != 0:
            raise ProgramFailed(self.pid, status)
        return None if status.value is None else json.loads(status.value)

    async def status(self, *, timeout_s: float | None = None) -> ExitStatus:
        """How it ended, once it did; a failure is no error here. TimedOut after `timeout_s`."""
        if self._status is None:
            result: calls.WaitResult = await transport.call("wait", Wait(self.pid, timeout_s))
            self._status, self._stat = result.exit, result.usage
        return self._status

    async def kill(self, signal: str = Signal.TERM) -> None:
        """TERM cancels it at its current or next call, KILL ends it at once, STOP and CONT hold it and let it go on."""
        await kill(self.pid, signal)

    async def stop(self) -> None:
        """Hold its code and its calls, until `cont`. What it waits for goes on; its files can be demoted."""
        await kill(self.pid, Signal.STOP)

    async def cont(self) -> None:
        """Let it go on."""
        await kill(self.pid, Signal.CONT)

    async def feed(self, data: str | bytes = b"", *, eof: bool = False) -> None:
        """Write to its standard input; `eof`: and close it.

        Raises:
            WouldBlock: too much of it is unread. BrokenPipe: it has none, closed it or ended.
        """
        await transport.call("feed", calls.Feed(self.pid, data.encode() if isinstance(data, str) else data, eof))

    async def usage(self) -> RusageResult:
        """What it, its children and its threads have used so far. NoSuchProcess once it was waited for: then `stat` has it."""
        return await getrusage(self.pid)

    async def limits(self) -> calls.RlimitResult:
        """What it may use in all as things stand, and what it has used."""
        return await getrlimit(self.pid)

    async def set_limits(self, limits: Limits) -> None:
        """Lower its limits, those that are given. NotOwner for one that would be raised."""
        await setrlimit(limits, self.pid)

    async def stat(self) -> ProcessStat:
        """As `ps` shows it; of one that was waited for, as it was at its end."""
        return self._stat if self._stat is not None else (await ps(self.pid))[0]

    def __repr__(self) -> str:
        return f"<process {self.pid}>"


async def spawn(
    what: Callable[..., Any] | str | None = None,
    /,
    *args: Any,
    program: str = "",
    code: bytes = b"",
    runtime: str = "",
    limits: Limits | None = None,
    fds: Mapping[str, File] | None = None,
    tools: Iterable[str] | None = None,
    stdin: bool = False,
    **kwargs: Any,
) -> Process:
    """Start a top-level function of this program, another program's source text, an installed `program` or a module as a process.

    `limits`: of it and all that it spawns; `fds`: open files that it finds in `lip.inherited()`; `tools`: globs of those of ours
    that it may call, None all; `stdin`: its standard input comes by `feed`; `runtime="trusted"`: in the server's own process. An
    argument of the program that has such a name goes by position.

    Raises:
        BadProgram: it is no top-level function, does not parse, or the arguments do not fit.
        NotOwner: the caller may not start programs here.
        NoSuchFile, AccessDenied: of an installed program.
        QuotaExceeded: too many programs of this tree run, or it is too deep.
        WouldBlock: too many programs run.
    """
    image = _image(what, args, kwargs, program, code)
    return await _start(image, Gifts(runtime, limits, fds or {}, tools, stdin), detach=False)


async def detach(
    what: Callable[..., Any] | str | None = None,
    /,
    *args: Any,
    program: str = "",
    code: bytes = b"",
    runtime: str = "",
    limits: Limits | None = None,
    fds: Mapping[str, File] | None = None,
    tools: Iterable[str] | None = None,
    stdin: bool = False,
    **kwargs: Any,
) -> Process:
    """As `spawn`, but the process outlives this one. What it uses still counts for this one's limits."""
    image = _image(what, args, kwargs, program, code)
    return await _start(image, Gifts(runtime, limits, fds or {}, tools, stdin), detach=True)


async def inherited() -> dict[str, File]:
    """The open files that this program was given by `fds=`, by name; those that it has closed are left out."""
    found: calls.InheritedResult = await transport.call("inherited", NoArgs())
    files = {}
    for name, fd in found.fds.items():
        stat = (await transport.call("stat", calls.Stat(fd))).file
        files[name] = File(calls.FdResult(fd, stat.ino, stat.length), stat.path)
    return files


async def kill(pid: int, signal: str = Signal.TERM) -> None:
    """Signal a process that the caller owns; NoSuchProcess when there is none."""
    await transport.call("kill", Kill(pid, str(signal)))


async def ps(pid: int | None = None) -> list[ProcessStat]:
    """All processes that the caller may see, or the one."""
    return list((await transport.call("ps", Ps(pid))).processes)


async def getpid() -> int:
    """This process's id."""
    pid: int = (await transport.call("getpid", NoArgs())).pid
    return pid


async def getrlimit(pid: int | None = None) -> calls.RlimitResult:
    """What this process (or another one) may use in all as things stand, and has used: `limits.tokens - used.tokens` are left."""
    result: calls.RlimitResult = await transport.call("getrlimit", calls.Getrlimit(pid))
    return result


async def setrlimit(limits: Limits, pid: int | None = None) -> None:
    """Lower the limits of this process (or another one), those that are given. NotOwner for one that would be raised."""
    await transport.call("setrlimit", calls.Setrlimit(limits, pid))


async def getrusage(pid: int | None = None) -> RusageResult:
    """What this process (or another one) has used, its children, and its threads."""
    result: RusageResult = await transport.call("getrusage", calls.Getrusage(pid))
    return result


# ---- what is started


@dataclass(frozen=True, slots=True)
class Gifts:
    """What a child gets of its parent, and where it runs."""

    runtime: str
    limits: Limits | None
    fds: Mapping[str, File]
    tools: Iterable[str] | None
    stdin: bool


@dataclass(frozen=True, slots=True)
class Image:
    """What runs, and its arguments as JSON text."""

    args: str
    source: str | None = None
    entry: str = "main"
    name: str = ""
    abi: str = ""
    code: bytes = b""
    program: str = ""


async def _start(image: Image, gifts: Gifts, *, detach: bool) -> Process:
    call = Spawn(
        source=image.source,
        entry=image.entry,
        args=image.args,
        name=image.name,
        detach=detach,
        abi=image.abi,
        code=image.code,
        program=image.program,
        runtime=gifts.runtime,
        limits=gifts.limits,
        fds={name: file.fd for name, file in gifts.fds.items()},
        tools=None if gifts.tools is None else tuple(gifts.tools),
        stdin=gifts.stdin,
    )
    return Process((await transport.call("spawn", call)).pid)


def _image(
    what: Callable[..., Any] | str | None, args: tuple[Any, ...], kwargs: dict[str, Any], program: str, code: bytes
) -> Image:
    if (what is not None) + bool(program) + bool(code) != 1:
        raise InvalidArgument("spawn takes one of a function or source text, program= and code=")
    if what is None:
        if args:
            raise InvalidArgument("an installed program and a module take their arguments by name")
        return Image(to_json(kwargs), code=code, program=program)
    if isinstance(what, str):
        return Image(to_json(_by_name(what, args, kwargs)), what, abi=text_of.abi_of(what))
    name = getattr(what, "__name__", "")
    if not inspect.isfunction(what) or what.__qualname__ != name:
        raise InvalidArgument("spawn takes a top-level function of this program, or the source text of another one")
    try:
        bound = inspect.signature(what).bind(*args, **kwargs).arguments
    except TypeError as e:
        raise BadProgram(f"{name}: {e}") from None
    return Image(to_json(text_of.bind_arguments(what, bound)), None, name, name)


def _by_name(source: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a text's `main`, all by name. BadProgram when they do not fit."""
    options = text_of.parse(source).options
    if len(args) > len(options):
        raise BadProgram(f"main takes {len(options)} arguments, {len(args)} were given")
    named = {option.name: value for option, value in zip(options, args, strict=False)}
    if twice := named.keys() & kwargs.keys():
        raise BadProgram(f"main got two values for {', '.join(sorted(twice))}")
    names = {option.name for option in options}
    if unknown := kwargs.keys() - names:
        raise BadProgram(f"main takes no {', '.join(sorted(unknown))}")
    if missing := {option.name for option in options if option.required} - named.keys() - kwargs.keys():
        raise BadProgram(f"main needs {', '.join(sorted(missing))}")
    return {**named, **kwargs}
