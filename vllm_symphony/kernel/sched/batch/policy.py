"""When a step begins, if it could begin now (kernel/sched/batch/policy.py).

    a step could begin --begins--> no: it does
                       '---------> yes: a hold --until_s--> it is asked again when something comes, or at that time
                                               '--ended---> the step begins

Which calls are in the step is the process level's word, and how many tokens they get the token budget's; this level says when. A
policy sees counts and times only. Who holds (engine/cohort.py, engine/sim/holding.py) ends a hold at once when a plain request
comes, and never holds a device on which nobody computes and nobody waits. Bound: a policy says a time, and says it again only when
something came; so a slow or a dead program costs the others at most one hold for each of its calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vllm_symphony.kernel.sched.parameter import Parameter


@dataclass(frozen=True, slots=True)
class Look:
    """The moment in which a step could begin. `queued`: calls that wait for it; `expected`: those that waited when the last step
    ended, and one from each program that it answered; `streams`: rows that go on by themselves, in programs that they are worth;
    `step_s`: what steps take lately; `began_s`: when the hold began; `last_s`: when something came since, or else `began_s`."""

    now_s: float
    queued: int
    expected: int
    streams: float
    step_s: float
    began_s: float
    last_s: float


class BatchPolicy:
    """What this class does by default is to hold nothing."""

    name: ClassVar[str]
    help: ClassVar[str]  # one line
    parameters: ClassVar[dict[str, Parameter]] = {}
    on_engine: ClassVar[bool] = True  # False: for the simulator only, to compare with

    # ---- what happens

    def came(self, num_calls: int, now_s: float) -> None:
        """So many calls have come."""

    def stepped(self, num_rows: int, seconds: float, times: int = 1) -> None:
        """A step has computed, or several with as many rows."""

    def ended(self, first: Look, last: Look, *, disturbed: bool) -> None:
        """The hold that began with `first` is over. `disturbed`: not by the policy's word."""

    # ---- what follows

    def begins(self, look: Look) -> bool:
        """Whether the step is held at all; asked once for each."""
        return False

    def until_s(self, look: Look) -> float:
        """By the clock: until when it is held if nothing comes. Now or before: it begins."""
        return look.now_s
