r"""A step begins with as many calls as the rate of their arrivals makes best (kernel/sched/batch/rate.py): to compare with.

    n* = argmin over n with lambda f(n) < n of    (n - 1) / (2 lambda) + n / (2 lambda (n - lambda f(n))) + f(n)
                                                  until n are there      in the queue (D/M/1-like)            the step

lambda is the moving average of the gaps between arrivals, f(n) = step_s + row_s n a least-squares line through the steps that were
measured. Where no n can keep up, n is all that fit. Programs in lock step arrive in bursts, which a rate does not describe: that is
why `cohort` is what serves.
Bound: `timeout_s`.
Source: batch service with Poisson arrivals, M/D^n/1 (Bailey, "On queueing processes with bulk service", 1954), as used by batchers
of inference servers.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.batch.policy import BatchPolicy, Look
from vllm_symphony.kernel.sched.parameter import Parameter

KEEP = 0.9  # of an average, at each new value
MOST = 256


class Rate(BatchPolicy):
    name = "rate"
    help = "a step begins with as many calls as the rate of their arrivals makes best"
    parameters = {"timeout_s": Parameter(0.05, 0.0, "no step is held for longer")}  # noqa: RUF012
    on_engine = False

    def __init__(self, timeout_s: float = 0.05) -> None:
        self.timeout_s = timeout_s
        self._gap_s: float | None = None
        self._last_s: float | None = None
        self._num = self._rows = self._seconds = self._rows2 = self._both = 0.0
        self._best: int | None = None  # until something is measured

    def came(self, num_calls: int, now_s: float) -> None:
        if self._last_s is not None:
            gap_s = (now_s - self._last_s) / num_calls
            for _ in range(num_calls):
                self._gap_s = gap_s if self._gap_s is None else KEEP * self._gap_s + (1 - KEEP) * gap_s
        self._last_s, self._best = now_s, None

    def stepped(self, num_rows: int, seconds: float, times: int = 1) -> None:
        keep = KEEP**times
        num = (1 - keep) / (1 - KEEP)
        self._num = keep * self._num + num
        self._rows = keep * self._rows + num * num_rows
        self._seconds = keep * self._seconds + num * seconds
        self._rows2 = keep * self._rows2 + num * num_rows**2
        self._both = keep * self._both + num * num_rows * seconds
        self._best = None

    def begins(self, look: Look) -> bool:
        return 0 < look.queued < self.best()

    def until_s(self, look: Look) -> float:
        return look.began_s + self.timeout_s if look.queued < self.best() else look.now_s

    def best(self) -> int:
        """n*; 1 while nothing is known."""
        if self._best is None:
            self._best = self._argmin() if self._gap_s and self._num else 1
        return self._best

    def _argmin(self) -> int:
        assert self._gap_s is not None
        rate = 1 / self._gap_s
        delays = {n: self._delay_s(n, rate) for n in range(1, MOST + 1) if rate * self.step_s(n) < n}
        return min(delays, key=delays.__getitem__) if delays else MOST

    def _delay_s(self, n: int, rate: float) -> float:
        step_s = self.step_s(n)
        return (n - 1) / (2 * rate) + n / (2 * rate * (n - rate * step_s)) + step_s

    def step_s(self, n: int) -> float:
        """f(n)."""
        mean_rows, mean_s = self._rows / self._num, self._seconds / self._num
        spread = self._rows2 - self._num * mean_rows**2
        slope = (self._both - self._num * mean_rows * mean_s) / spread if spread > 1e-9 else 0.0
        return max(0.0, mean_s + max(0.0, slope) * (n - mean_rows))
