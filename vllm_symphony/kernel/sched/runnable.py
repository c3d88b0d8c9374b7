"""A call that wants the device, and what a step does for it (kernel/sched/runnable.py).

    waiting --take--> running --its step--> running --remove--> gone
       ^                 |
       +----put_back-----+      no room for it, or it gave way; what it has computed is kept

Service is counted in *weighted tokens*: one for a token of a prompt, two for one that is decoded, as in VTC (Sheng et al., OSDI
2024, section 3). Not in seconds: the same call would cost more in a full step than in an empty one, and a run would not repeat
itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_symphony.kernel.effect import Owner
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.ranking import Key

PROMPT_WEIGHT, DECODE_WEIGHT = 1.0, 2.0


@dataclass(frozen=True, slots=True)
class Service:
    """What one step (or several in a row) did for a call. `held`: tokens of KV that it held, summed over the
    steps."""

    prefill: int = 0
    decode: int = 0
    held: int = 0

    @property
    def tokens(self) -> float:
        """Weighted."""
        return PROMPT_WEIGHT * self.prefill + DECODE_WEIGHT * self.decode


@dataclass(slots=True, eq=False)
class Runnable:
    """`number`: in order of arrival, across preemptions. `prompt`: tokens to compute before its first answer, as far as the device
    knows. `rank`: its place among the waiting calls of its program; smaller goes first.

    The rest is counted by the queue: `prepaid` weighted tokens were charged when it was taken and are not computed yet.
    """

    number: int
    owner: Owner
    program: Program
    prompt: int
    arrived_s: float
    rank: Key = (0.0,)
    is_running: bool = False
    since_s: float = 0.0  # it waits, or runs
    waited_s: float = 0.0
    ran_s: float = 0.0
    prepaid: float = 0.0
    tokens: float = 0.0  # weighted, of all its steps
    decoded: int = 0

    def turn(self, now_s: float) -> None:
        """From waiting to running, or back: count the time."""
        if self.is_running:
            self.ran_s += now_s - self.since_s
        else:
            self.waited_s += now_s - self.since_s
        self.is_running = not self.is_running
        self.since_s = now_s

    def waited(self, now_s: float) -> float:
        """Seconds, all in all."""
        return self.waited_s if self.is_running else self.waited_s + now_s - self.since_s
