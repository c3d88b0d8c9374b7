"""Threads that wait for something other than the device (kernel/rest.py).

    call_tool, sleep, recv, send, request, poll, wait  --no answer yet--> Rests(why) ... answered, cancelled, killed --> Resumes

The device holds pages of their files meanwhile, and decides what becomes of them by what is waited for (kernel/sched/memory/). A
process without an open file holds none, and an edge's calls are many principals': of these nobody is told.
"""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.calls import CallTool
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.effect import Rests
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind

WHY = {
    "call_tool": "tool", "sleep": "sleep", "recv": "message", "send": "message", "request": "message", "poll": "message",
    "wait": "child",
}  # fmt: skip


def begin(m: Machine, call: Call, args: Any) -> None:
    """The call was carried out and has no answer yet."""
    why, process = WHY.get(call.op), call.process
    if why is None or call.ended or call.pending is None or not len(process.fds) or process.kind is Kind.EDGE:
        return
    call.rests = True
    m.emit(Rests(process.pid, call.tid, why, args.name if isinstance(args, CallTool) else "", call.key))
