"""Calls of tools (kernel/syscall/tool.py): tools, call_tool.

    call_tool --ToolJob--> tool host --ToolDone | JobFailed--> the caller
                  interrupted, timed out, killed: CancelTool, and the caller is answered at once

A tool is a device outside of the machine. While it works the thread holds nothing of the machine: no writer bit, no reader, no pin;
its files can be demoted. What the kernel decides is who may call what (kernel/grant.py), how many at once and until when; what a
tool is, is the tool host's business (tools/). A tool that one may not call does not exist: ENOENT.
"""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.calls import CallTool, NoArgs, ToolsResult
from vllm_symphony.abi.types import JobId
from vllm_symphony.errors import InvalidArgument, NoSuchFile, NotSupported, SymphonyError, TimedOut, WouldBlock
from vllm_symphony.kernel import grant
from vllm_symphony.kernel.budget import Payer, demand, of_call
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import CancelTool, ToolDone, ToolJob
from vllm_symphony.kernel.job import surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument
from vllm_symphony.kernel.timer import after

MAX_NAME = 128  # characters
LATE_S = 0.5  # the tool host keeps the limit and says what was late; if it does not, we do


class ToolWork(Pending):
    """One call of a tool in flight."""

    __slots__ = ("id", "name", "payer")

    def __init__(self, m: Machine, call: Call, name: str) -> None:
        super().__init__(call)
        self.name = name
        self.payer = Payer(m, call)
        m.num_jobs += 1
        self.id = JobId(m.num_jobs)
        m.works[self.id] = self

    def interrupt(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """Answer at once; the tool is told, and what it still says is passed over."""
        call = self.call
        if call is not None:
            self._account(now_ns)
        super().interrupt(m, error, now_ns)

    def drop(self, m: Machine) -> None:
        super().drop(m)
        if m.works.pop(self.id, None) is not None:
            m.emit(CancelTool(self.id))

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        """Take the tool host's answer."""
        call = self.call
        if call is None:
            return
        self._account(now_ns)
        del m.works[self.id]
        self.drop(m)
        if isinstance(completion, ToolDone):
            m.finish(call, completion.result, now_ns)
        else:
            m.fail(call, getattr(completion, "error", None) or surprise(completion), now_ns)

    def _account(self, now_ns: int) -> None:
        assert self.call is not None
        self.payer.count("tool_s", (now_ns - self.call.start_ns) / 1e9)


def tools(m: Machine, call: Call, a: NoArgs) -> ToolsResult:
    """Those that the caller may call, by name."""
    granted = grant.own(m, call)
    known = m.tool_table(call.cred.principal)
    return ToolsResult(tuple(sorted((tool for tool in known if granted.allows(tool.name)), key=lambda tool: tool.name)))


def call_tool(m: Machine, call: Call, a: CallTool) -> None:
    """Hand the call to the tool host; answers with what the tool gave."""
    argument.demand_timeout(a.timeout_s)
    process = call.process
    if len(a.name) > MAX_NAME or len(a.args) > m.limits.tool_args_bytes:
        raise InvalidArgument(
            f"a name of {len(a.name)} and arguments of {len(a.args)} characters: the most is {MAX_NAME} and "
            f"{m.limits.tool_args_bytes}", limit=m.limits.tool_args_bytes,
        )  # fmt: skip
    if m.granted_tools is None:
        raise NotSupported("this server has no tools (symphony serve --tools FILE)")
    if not grant.own(m, call).allows(a.name):
        num_tools = len(tools(m, call, NoArgs()).tools)
        raise NoSuchFile(f"no such tool: {a.name} ({num_tools} are granted here)", name=a.name)
    busy = sum(isinstance(other.pending, ToolWork) for other in process.calls.values())
    if busy >= m.limits.tool_calls:
        raise WouldBlock(f"{busy} tools work for the process, the most at once", limit=m.limits.tool_calls)
    demand(of_call(m, call), "tool_calls", 1, call.start_ns)
    work = ToolWork(m, call, a.name)
    work.payer.call_tool()
    call.pending = work
    if a.timeout_s is not None:
        error = TimedOut(f"{a.name} was not done in {a.timeout_s:g} s", timeout_s=a.timeout_s)
        when_ns = after(call.start_ns, a.timeout_s + LATE_S)
        work.timer = m.timers.at(when_ns, lambda now_ns: work.interrupt(m, error, now_ns))
    m.emit(ToolJob(work.id, call.cred.principal, process.pid, a.name, a.args, a.timeout_s))
