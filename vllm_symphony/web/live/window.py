"""What happened since the last frame of a stream, in bounded room (web/live/window.py).

    strace --StracePart--> Window --take--> {"steps": [...], "ops": {...}, "calls": [...], "errors": [...], "since": {...}}

A program may make ten thousand calls a second and an engine a thousand steps. Sums are exact and small; of the calls and steps
themselves the newest are kept. So a frame has a largest size, whatever happened, and whoever reads slowly gets coarser news, not
older ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import Any

from vllm_symphony.abi.calls import StracePart
from vllm_symphony.abi.types import CallRecord, StepRecord

MAX_STEPS, MAX_CALLS, MAX_ERRORS = 600, 60, 30  # of one frame
MAX_PAST_STEPS = 6000  # of one that still tells of the past
LOOKING = frozenset(
    {"attach", "find", "info", "metrics", "model_info", "ping", "ps", "statfs", "strace", "why"}
)  # what pages and tools ask


class Window:
    """Filled by parts of a strace, emptied by `take`. `programs` are known pids: of others what only looks is left out, because a
    page would show itself. What ended before `since_ns` is history: it is shown, and is no part of how fast it goes now."""

    def __init__(self, since_ns: int = 0) -> None:
        self.programs: Set[int] = frozenset()
        self._since_ns = since_ns
        self._is_past = True  # until a step comes that is none of the past
        self._empty()

    def _empty(self) -> None:
        self._steps: deque[StepRecord] = deque(maxlen=MAX_PAST_STEPS if self._is_past else MAX_STEPS)
        self._calls: deque[CallRecord] = deque(maxlen=MAX_CALLS)
        self._errors: deque[CallRecord] = deque(maxlen=MAX_ERRORS)
        self._ops: dict[str, list[float]] = {}
        self._since = {"steps": 0, "tokens": 0, "busy_ms": 0.0, "calls": 0}
        self._missing = 0

    @property
    def is_empty(self) -> bool:
        return not (self._steps or self._ops or self._missing)

    def put(self, part: StracePart) -> None:
        """Take what is new."""
        self._missing += part.missing
        for step in part.steps:
            self._steps.append(step)
            if step.t_end_ns >= self._since_ns:
                self._is_past = False
                self._since["steps"] += 1
                self._since["tokens"] += step.num_tokens
                self._since["busy_ms"] += (step.t_end_ns - step.t_start_ns) / 1e6
        for record in part.records:
            if record.op not in LOOKING or record.pid in self.programs:
                self._count(record)

    def _count(self, record: CallRecord) -> None:
        seconds = (record.t_end_ns - record.t_start_ns) / 1e9
        failed = record.result != "ok"
        sums = self._ops.setdefault(record.op, [0, 0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += failed
        sums[2] += seconds
        sums[3] = max(sums[3], seconds)
        self._since["calls"] += record.t_end_ns >= self._since_ns
        self._calls.append(record)
        if failed:
            self._errors.append(record)

    def take(self) -> dict[str, Any]:
        """All of it; it is empty then. `ops`: [calls, errors, seconds, longest] of each; `since`: sums of what is no history."""
        told = {
            "steps": [_step(s) for s in self._steps],
            "ops": self._ops,
            "calls": [_call(r) for r in self._calls],
            "errors": [_call(r) for r in self._errors],
            "missing": self._missing,
            "since": self._since,
        }
        self._empty()
        return told


def _step(s: StepRecord) -> list[float | None]:
    """Number, start (ms since the epoch), duration (ms), rows, of plain requests (None: the record does not say), tokens."""
    return [s.step, s.t_start_ns / 1e6, (s.t_end_ns - s.t_start_ns) / 1e6, s.num_calls, getattr(s, "num_plain", None), s.num_tokens]


def _call(r: CallRecord) -> dict[str, Any]:
    return {
        "seq": r.seq,
        "pid": r.pid,
        "tid": r.tid,
        "op": r.op,
        "args": r.args,
        "result": r.result,
        "t_ms": r.t_end_ns / 1e6,
        "ms": (r.t_end_ns - r.t_start_ns) / 1e6,
    }
