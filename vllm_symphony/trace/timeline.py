"""The event log as a picture: Chrome's trace format, which Perfetto opens (trace/timeline.py).

    engine           [ step 41 ][ step 42 ] [ step 43 ]
                         ^ \\______________________^           flow arrows: a call to its first and to its last step
    process 12
      thread 0       [ open ][ ---- generate ---- ][ close ]
      thread 1            [ forward ]                         a thread with several calls at once has a track for each more

Times are microseconds since the first event, whose time of day is `otherData.start_ns`. Tracks are numbered through all processes
from 1 on, since Perfetto takes thread 0 for the idle one.
Source: "Trace Event Format" (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_symphony.abi.types import CallRecord, StepRecord
from vllm_symphony.trace.choice import KINDS

ENGINE = 2**31 - 1  # the engine among the processes
Event = dict[str, Any]


def timeline(
    records: Sequence[CallRecord], steps: Iterable[StepRecord], names: Mapping[int, str], *, missing: int = 0
) -> dict[str, Any]:
    """The trace of these calls and of the engine's steps meanwhile. `names`: of processes, by pid."""
    records = sorted(records, key=lambda r: (r.t_start_ns, -r.t_end_ns, r.seq))
    first_ns = min((r.t_start_ns for r in records), default=0)
    last_ns = max((r.t_end_ns for r in records), default=0)
    shown = {s.step: s for s in steps if s.t_end_ns >= first_ns and s.t_start_ns <= last_ns}
    start_ns = min([first_ns, *(s.t_start_ns for s in shown.values())])
    picture = _Picture(start_ns, names)
    for step in shown.values():
        picture.step(step)
    for record in records:
        picture.call(record, shown)
    picture.events.sort(key=lambda e: (e["ph"] != "M", e["ts"]))
    return {
        "traceEvents": picture.events,
        "displayTimeUnit": "ms",
        "otherData": {"made_by": "symphony", "start_ns": str(start_ns), "missing_calls": str(missing)},
    }


class _Picture:
    """Events so far, and which tracks there are."""

    def __init__(self, start_ns: int, names: Mapping[int, str]) -> None:
        self.events: list[Event] = []
        self._start_ns = start_ns
        self._names = names
        self._tracks: dict[tuple[int, int, int], int] = {}  # (pid, tid, lane) -> its number
        self._ends: dict[tuple[int, int], list[int]] = {}  # when the last call in each lane of a thread ended
        self._engine = self._track(ENGINE, 0, 0)

    def step(self, s: StepRecord) -> None:
        args = {"calls": s.num_calls, "tokens": s.num_tokens}
        self._slice(f"step {s.step}", "step", s.t_start_ns, s.t_end_ns, ENGINE, self._engine, args)

    def call(self, r: CallRecord, steps: Mapping[int, StepRecord]) -> None:
        track = self._track(r.pid, r.tid, self._lane(r))
        kind = next((kind for kind, ops in KINDS.items() if r.op in ops), "other")
        args: dict[str, Any] = {"args": r.args, "result": r.result, "seq": r.seq}
        if r.step_first is not None:
            args |= {"step_first": r.step_first, "step_last": r.step_last}
        self._slice(r.op, kind, r.t_start_ns, r.t_end_ns, r.pid, track, args)
        for end, number in enumerate(dict.fromkeys((r.step_first, r.step_last))):
            if number is not None and (step := steps.get(number)) is not None:
                self._arrow(r, track, step, 2 * r.seq + end)

    def _lane(self, r: CallRecord) -> int:
        """The first lane of its thread that is free when it starts."""
        ends = self._ends.setdefault((r.pid, r.tid), [])
        for lane, end_ns in enumerate(ends):
            if end_ns <= r.t_start_ns:
                ends[lane] = r.t_end_ns
                return lane
        ends.append(r.t_end_ns)
        return len(ends) - 1

    def _track(self, pid: int, tid: int, lane: int) -> int:
        key = (pid, tid, lane)
        if key not in self._tracks:
            if all(known[0] != pid for known in self._tracks):
                name = self._names.get(pid) or "process"
                self._say(pid, 0, "process_name", "engine" if pid == ENGINE else f"{name} ({pid})")
                self._say(pid, 0, "process_sort_index", -1 if pid == ENGINE else len(self._tracks))
            number = self._tracks[key] = len(self._tracks) + 1
            thread = "steps" if pid == ENGINE else "main" if tid == 0 else f"thread {tid}"
            self._say(pid, number, "thread_name", thread + (f", at once ({lane + 1})" if lane else ""))
            self._say(pid, number, "thread_sort_index", number)
        return self._tracks[key]

    def _say(self, pid: int, track: int, what: str, value: str | int) -> None:
        key = "name" if what.endswith("name") else "sort_index"
        self.events.append({"ph": "M", "ts": 0, "pid": pid, "tid": track, "name": what, "args": {key: value}})

    def _slice(self, name: str, kind: str, start_ns: int, end_ns: int, pid: int, track: int, args: Event) -> None:
        ts, dur = self._us(start_ns), round(max(0, end_ns - start_ns) / 1e3, 3)
        self.events.append({"ph": "X", "name": name, "cat": kind, "ts": ts, "dur": dur, "pid": pid, "tid": track, "args": args})

    def _arrow(self, r: CallRecord, track: int, step: StepRecord, number: int) -> None:
        """From the call, when the step began, to the step."""
        at_ns = min(max(step.t_start_ns, r.t_start_ns), r.t_end_ns, step.t_end_ns)
        common = {"name": "in step", "cat": "step", "id": number}
        self.events.append({"ph": "s", "ts": self._us(at_ns), "pid": r.pid, "tid": track, **common})
        into = {"ts": self._us(max(at_ns, step.t_start_ns)), "pid": ENGINE, "tid": self._engine}
        self.events.append({"ph": "f", "bp": "e", **into, **common})

    def _us(self, t_ns: int) -> float:
        return round((t_ns - self._start_ns) / 1e3, 3)
