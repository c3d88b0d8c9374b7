"""Records for tests of what reads them."""

from typing import Any

from vllm_symphony.abi.types import CallRecord, StepRecord

T0 = 1_700_000_000_000_000_000


def call(seq: int, op: str = "forward", start: int = 0, end: int = 10, *, pid: int = 12, tid: int = 0, **more: Any) -> CallRecord:
    """A call from `start` to `end`, in microseconds."""
    values = {"args": "fd=3 n=1", "result": "ok", **more}
    return CallRecord(seq, pid, tid, op, t_start_ns=T0 + start * 1000, t_end_ns=T0 + end * 1000, **values)


def step(number: int, start: int, end: int) -> StepRecord:
    return StepRecord(number, T0 + start * 1000, T0 + end * 1000, 2, 7)
