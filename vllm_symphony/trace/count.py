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
        counts = list(self._of.values())
        calls, errors, total_ns = (sum(count[i] for count in counts) for i in range(3))
        everything = _row("total", calls, errors, total_ns, max((count[3] for count in counts), default=0))
        return [*sorted((_row(op, *count) for op, count in self._of.items()), key=lambda row: (-row.total_s, row.op)), everything]


def _row(op: str, num_calls: int, num_errors: int, total_ns: int, max_ns: int) -> CallCount:
    return CallCount(op, num_calls, num_errors, total_ns / 1e9, total_ns / max(1, num_calls) / 1e9, max_ns / 1e9)
