"""How often each call was made and how long it took, as `strace -c` shows it (trace/count.py)."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_symphony.abi.types import CallRecord


@dataclass(frozen=True, slots=True)
class CallCount:
    """All calls of one name. Seconds are from call to answer: those of threads that wait beside each other add up."""

    op: str
    num_calls: int
    num_errors: int
    total_s: float
    mean_s: float
    max_s: float


class Counts:
    """Takes records, gives a row for each call."""

    def __init__(self) -> None:
        self._of: dict[str, list[int]] = {}  # op -> calls, errors, total_ns, max_ns

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        took_ns = record.t_end_ns - record.t_start_ns
        count = self._of.setdefault(record.op, [0, 0, 0, 0])
        count[0] += 1
        count[1] += record.result != "ok"
        count[2] += took_ns
        count[3] = max(count[3], took_ns)

    def rows(self) -> list[CallCount]:
        """Those that took most in all first; last `total` with the sum of all."""
        counted = [
            CallCount(op, n, errors, total / 1e9, total / n / 1e9, longest / 1e9)
            for op, (n, errors, total, longest) in self._of.items()
        ]
        counted.sort(key=lambda c: (-c.total_s, c.op))
        n = sum(c.num_calls for c in counted)
        total_s = sum(c.total_s for c in counted)
        errors, longest_s = sum(c.num_errors for c in counted), max((c.max_s for c in counted), default=0.0)
        return [*counted, CallCount("total", n, errors, total_s, total_s / n if n else 0.0, longest_s)]
