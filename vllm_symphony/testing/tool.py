"""Tools of a machine for tests (testing/tool.py): each answers as the test says, at the virtual time that it says.

    m.tool("weather", "sunny")                          always this text
    m.tool("roll", lambda sides: 4, takes_s=2.0)        what the function gives: text, or JSON; what it raises is `is_error`
    m.tool("search", BrokenPipe("no connection"))       an error of the line

Arguments are not checked against the schema, which is for the model; a function that cannot take them answers EINVAL.
"""

from __future__ import annotations

import inspect
import json
from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import JobId, ToolInfo
from vllm_symphony.errors import Interrupted, InvalidArgument, NoSuchFile, SymphonyError, TimedOut
from vllm_symphony.kernel.effect import CancelTool, JobFailed, ToolDone, ToolJob

if TYPE_CHECKING:
    from vllm_symphony.testing.world import World

Answer = str | SymphonyError | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Prop:
    """One tool, as the stage has it."""

    info: ToolInfo
    answer: Answer
    takes_s: float


class Props:
    """All tools of a machine."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._props: dict[str, Prop] = {}
        self._alarms: dict[JobId, TimerHandle] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []  # name and arguments, in order

    def add(self, prop: Prop) -> None:
        self._props[prop.info.name] = prop
        kernel = self._world.kernel
        kernel.tool_table, kernel.granted_tools = self._table, lambda _: ("*",)

    def submit(self, job: ToolJob) -> None:
        """Answer it when its time has come."""
        prop = self._props.get(job.name)
        takes_s = prop.takes_s if prop is not None else 0.0
        late = job.timeout_s is not None and takes_s > job.timeout_s
        self._alarms[job.job] = self._world.loop.call_later(job.timeout_s if late else takes_s, self._end, job, prop, late)  # type: ignore[arg-type]

    def cancel(self, effect: CancelTool) -> None:
        alarm = self._alarms.pop(effect.job, None)
        if alarm is not None:
            alarm.cancel()
            self._world.deliver((JobFailed(effect.job, Interrupted("cancelled")),))

    def _table(self, principal: str) -> Sequence[ToolInfo]:
        return [prop.info for prop in self._props.values()]

    def _end(self, job: ToolJob, prop: Prop | None, late: bool) -> None:
        del self._alarms[job.job]
        try:
            if prop is None:
                raise NoSuchFile(f"no such tool: {job.name}", name=job.name)
            if late:
                raise TimedOut(f"{job.name} was not done in {job.timeout_s:g} s", timeout_s=job.timeout_s or 0.0)
            done: ToolDone | JobFailed = ToolDone(job.job, self._answer(prop, json.loads(job.args)))
        except SymphonyError as error:
            done = JobFailed(job.job, error)
        self._world.deliver((done,))

    def _answer(self, prop: Prop, arguments: dict[str, Any]) -> ToolResult:
        self.calls.append((prop.info.name, arguments))
        if isinstance(prop.answer, SymphonyError):
            raise prop.answer
        if isinstance(prop.answer, str):
            return ToolResult(prop.answer)
        try:
            inspect.signature(prop.answer).bind(**arguments)
        except TypeError as e:
            raise InvalidArgument(f"arguments: {e}") from None
        try:
            value = prop.answer(**arguments)
        except SymphonyError:
            raise
        except Exception as e:  # noqa: BLE001  as a real tool's: its own failure is a result
            return ToolResult(f"{type(e).__name__}: {e}", is_error=True)
        if value is None or isinstance(value, str):
            return ToolResult(value or "")
        text = json.dumps(value, ensure_ascii=False)
        return ToolResult(text, json=text)
