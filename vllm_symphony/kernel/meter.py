"""What the kernel counts of itself, for the metrics (kernel/meter.py).

    a call ends -> one number by (call, result), one bucket by kind          about half a microsecond
    somebody looks (`metrics`) -> samples, and what is there now (processes, files, channels)

Pure numbers: names and labels are put to them when they are read. The engine's numbers come from its own thread (`Device.meter`),
doors' from the edges, which report them with the call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import MetricSample
from vllm_symphony.trace import metrics
from vllm_symphony.trace.metric import OTHER, Counts, Histogram

if TYPE_CHECKING:
    from vllm_symphony.kernel.call import Call
    from vllm_symphony.kernel.machine import Machine

NS = 1e-9


class Meter:
    """Counts since the kernel started."""

    def __init__(self) -> None:
        self.seconds = {kind: Histogram(metrics.CALL_SECONDS, kind, scale=NS) for kind in metrics.CALL_KIND}
        self._of_call = {op: self.seconds[spec.kind] for op, spec in CALLS.items()}
        self._ended: dict[str, dict[str, int]] = {op: {} for op in (*CALLS, OTHER)}
        self.tool_seconds = Histogram(metrics.TOOL_SECONDS, scale=NS)
        self.tools = Counts(metrics.TOOL_CALLS)
        self.start_seconds = Histogram(metrics.START_SECONDS, scale=NS)
        self.started = Counts(metrics.PROCESSES_STARTED)
        self.ended = Counts(metrics.PROCESSES_ENDED)
        self.launches = Counts(metrics.LAUNCHES)
        self.limits = Counts(metrics.LIMITS_HIT)
        self.messages = Counts(metrics.MESSAGES)
        self.tokens = dict.fromkeys(metrics.TOKENS, 0)

    def call_ended(self, call: Call, result: str, now_ns: int) -> None:
        """Once a call."""
        op, took_ns = call.op, now_ns - call.start_ns
        ended = self._ended.get(op)
        if ended is None:
            ended, seconds = self._ended[OTHER], self.seconds[OTHER]
        else:
            seconds = self._of_call[op]
        ended[result] = ended.get(result, 0) + 1
        seconds.observe(took_ns)
        if op == "call_tool":
            self.tools.add(result)
            self.tool_seconds.observe(took_ns)

    def samples(self, m: Machine, now_ns: int) -> Iterator[MetricSample]:
        """All that the kernel knows."""
        calls = Counts(metrics.CALLS)
        for op, ended in self._ended.items():
            calls.update({(op, result): float(count) for result, count in ended.items()})
        yield from calls.samples()
        for histogram in (*self.seconds.values(), self.tool_seconds, self.start_seconds):
            yield from histogram.samples()
        for counts in (self.tools, self.started, self.ended, self.launches, self.limits, self.messages):
            yield from counts.samples()
        for kind, count in self.tokens.items():
            yield metrics.TOKEN_COUNT.sample(count, kind)
        yield from self._now(m, now_ns)

    @staticmethod
    def _now(m: Machine, now_ns: int) -> Iterator[MetricSample]:
        """What is there."""
        processes = list(m.processes.values())
        found = Counter((str(p.kind), str(p.shown_state)) for p in processes)
        for kind in metrics.PROCESS:
            for state in metrics.STATE:
                if kind in ("program", "session") or found[kind, state]:
                    yield metrics.PROCESSES.sample(found[kind, state], kind, state)
        sessions = Counter("connected" if p.connected else "away" for p in processes if p.kind == "session" and not p.has_ended)
        for state in ("connected", "away"):
            yield metrics.SESSIONS.sample(sessions[state], state)
        held = m.counters()
        for metric, name in (
            (metrics.CALLS_IN_FLIGHT, "calls"), (metrics.THREADS, "threads"), (metrics.FILES_KNOWN, "files"),
            (metrics.FILES_OPEN, "fds"), (metrics.CHANNELS, "channels"), (metrics.MESSAGES_QUEUED, "messages"),
            (metrics.TRACERS, "tracers"),
        ):  # fmt: skip
            yield metric.sample(held[name])
        yield from _sched(m)
        yield metrics.DEVICE_LOST.sample(m.lost is not None)
        yield metrics.UPTIME.sample((now_ns - m.boot_ns) * NS)


def _sched(m: Machine) -> Iterator[MetricSample]:
    """Who waits for the device, and who decides."""
    view = m.queue_view()
    standings = view.principals.values()
    yield metrics.RUN_QUEUE.sample(view.running, "running")
    yield metrics.RUN_QUEUE.sample(view.queued, "waiting")
    yield metrics.QUEUED_PRINCIPALS.sample(sum(s.running > 0 for s in standings), "running")
    yield metrics.QUEUED_PRINCIPALS.sample(sum(s.queued > 0 for s in standings), "waiting")
    yield metrics.SERVICE.sample(sum(s.service for s in standings))
    for stat in m.sched.shown():
        yield metrics.SCHED_POLICY.sample(1, stat.level, stat.policy)
