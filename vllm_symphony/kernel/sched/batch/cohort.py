"""A step is held a little while programs that the last one answered are about to call again (kernel/sched/batch/cohort.py).

    step n answers 16 programs |-- they compute --| 14, 15, 16 calls are there: step n + 1
                               |<--- hold ------->|  ends also when none came for a while, or it is dear

Programs that decode in lock step share a batch by this; without it they would fall into groups that take turns. What runs by itself
(plain streams, generates) is held up meanwhile. N streams and M programs do N + M rows in a step of s seconds and a hold of h, and
N + M / 2 in a step of s without one, as the programs then come in every second step. So a hold gains up to h = s M / (2 N + M).
Weights say what a row of each side is worth. With streams it begins although nobody has called yet: else the programs would miss
each second step for certain. Without them the loop sleeps until the first call anyway. Programs that think for long, or call tools,
do not come: a hold beside streams that has proven vain is left out, and tried again now and then.
Bound: a hold is no longer than the step it would save, and ends when nobody came for `window_s`. A program that is late once is not
expected in the next step, so it delays none but the one after its answer.
Rejected: to wait for all active programs; one that is slow then stalls everyone.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.batch.policy import BatchPolicy, Look
from vllm_symphony.kernel.sched.parameter import Parameter

WINDOW_S = 0.002
WINDOW_OF_STEP = 0.05  # of a recent step, if that is longer
WORTH = 0.25  # beside streams there is no hold when fewer than this part of those expected have come in recent ones ...
RETRY = 16  # ... but every so many steps


class Cohort(BatchPolicy):
    name = "cohort"
    help = "a step is held a little for programs that the last one answered"
    parameters = {"window_s": Parameter(WINDOW_S, 0.0, "a hold ends when no call has come for so many seconds; 0: there is none")}  # noqa: RUF012

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self.part_that_came = 1.0  # of those waited for beside streams, lately
        self._num_left_out = 0

    def limit_s(self, look: Look) -> float:
        """The longest hold that is worth it."""
        return look.step_s * look.expected / (2 * look.streams + look.expected)

    def begins(self, look: Look) -> bool:
        if not self.window_s or look.queued >= look.expected or not (look.queued or look.streams):
            return False
        return not (look.streams and self._is_vain())

    def until_s(self, look: Look) -> float:
        if look.queued >= look.expected:
            return look.now_s
        silence_s = max(self.window_s, WINDOW_OF_STEP * look.step_s)
        return min(look.last_s + silence_s, look.began_s + self.limit_s(look))

    def ended(self, first: Look, last: Look, *, disturbed: bool) -> None:
        if first.streams and not disturbed:
            missing = first.expected - first.queued
            self.part_that_came += 0.2 * (1 - (last.expected - last.queued) / missing - self.part_that_came)

    def _is_vain(self) -> bool:
        self._num_left_out = self._num_left_out + 1 if self.part_that_came < WORTH else 0
        return self._num_left_out % RETRY != 0
