"""What a client of 1.4 says in its transcript beside the rest: trace contexts, processes in the event log, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import Hello, Metrics, Spawn, Strace, Wait
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, MetricSample

if TYPE_CHECKING:
    from tests.abi.record import Recorder

STAYS = "async def main():\n    return 1\n"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
USED = ("usage",)


def seeing(r: Recorder, on: int = 9) -> None:
    r.hello(Hello(ABI_MAJOR, ABI_MINOR), on)
    r.note("a program that continues a trace, and the event log with processes")
    pid = r.call("spawn", Spawn(STAYS, traceparent=TRACE), on)["pid"]
    r.call("spawn", Spawn(STAYS, traceparent="no trace context"), on, varying=("pid",))
    r.call("wait", Wait(pid, 20.0), on, varying=USED)
    r.call("strace", Strace(pid, processes=True), on, varying=("records", "processes"))
    r.note("metrics; a client reports none")
    r.call("metrics", Metrics(), on, varying=("samples",))
    r.call("metrics", Metrics((MetricSample("symphony:refused_total", 1.0, {"door": "http", "reason": "rate"}),)), on)
