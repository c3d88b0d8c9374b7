"""Processes as programs see them (lip/process.py): start another program beside this one, wait for its value.

    child = await lip.spawn(summarise, "/kb/report")      a top-level function of this program
    child = await lip.spawn(source_text, topic="tides")   another program: its `main`
    value = await child.wait()

Arguments and values travel as JSON. A child ends with its parent, except when it was detached.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from vllm_symphony.abi.calls import Kill, NoArgs, Ps, Spawn, Wait
from vllm_symphony.abi.types import ExitStatus, ProcessStat, Signal
from vllm_symphony.errors import BadProgram, InvalidArgument
from vllm_symphony.lip import program, transport
from vllm_symphony.lip.text import to_json


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

    async def wait(self, *, timeout_s: float | None = None) -> Any:
        """The value that its `main` returned, once it ended.

        Raises:
            ProgramFailed: it raised, was killed or cancelled.
            TimedOut: it still runs after `timeout_s`.
        """
        if self._status is None:
            self._status = (await transport.call("wait", Wait(self.pid, timeout_s))).exit
        assert self._status is not None
        if self._status.code != 0:
            raise ProgramFailed(self.pid, self._status)
        return None if self._status.value is None else json.loads(self._status.value)

    async def kill(self, signal: str = Signal.TERM) -> None:
        """TERM cancels it at its current or next call, KILL ends it at once."""
        await kill(self.pid, signal)

    def __repr__(self) -> str:
        return f"<process {self.pid}>"


async def spawn(program: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Process:
    """Start a top-level function of this program, or another program's source text, as a process of its own.

    Raises:
        BadProgram: it is no top-level function, does not parse, or the arguments do not fit.
        NotOwner: the caller may not start programs here.
        WouldBlock: too many programs run.
    """
    return await _spawn(program, args, kwargs, detach=False)


async def detach(program: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Process:
    """As `spawn`, but the process outlives this one."""
    return await _spawn(program, args, kwargs, detach=True)


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


async def _spawn(what: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any], *, detach: bool) -> Process:
    if isinstance(what, str):
        options = program.parse(what).options
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
        call = Spawn(what, "main", to_json({**named, **kwargs}), "", detach, program.abi_of(what))
    else:
        name = getattr(what, "__name__", "")
        if not inspect.isfunction(what) or what.__qualname__ != name:
            raise InvalidArgument("spawn takes a top-level function of this program, or the source text of another one")
        try:
            bound = inspect.signature(what).bind(*args, **kwargs).arguments
        except TypeError as e:
            raise BadProgram(f"{name}: {e}") from None
        call = Spawn(None, name, to_json(program.bind_arguments(what, bound)), name, detach)
    return Process((await transport.call("spawn", call)).pid)
