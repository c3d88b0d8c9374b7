"""Who goes first among a principal's programs (kernel/sched/policy.py).

    RunQueue: principals by weight  ->  programs by `key`  ->  calls of one program by `Runnable.rank`

A policy is told what happens and says what the order is. All of it happens on the device's thread; time is an argument, and there
is no chance, so a run can be repeated. What this class does by default is to leave everything as it is: first come, first served.
To write one: a file with a subclass, a docstring with its source and its bound, a line in `catalogue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.ranking import Key
from vllm_symphony.kernel.sched.runnable import Runnable, Service


class Policy:
    """The order of programs and calls. Methods that return a truth value say whether the place of the call's program among those
    that wait may have changed."""

    name: ClassVar[str]
    help: ClassVar[str]  # one line
    parameters: ClassVar[dict[str, Parameter]] = {}

    # ---- what happens

    def called(self, call: Runnable, now_s: float) -> None:
        """A call has come: give it its rank."""
        call.rank = (call.number,)

    def returned(self, call: Runnable, now_s: float) -> None:
        """It waits again, after it ran or was only tried."""

    def paid(self, call: Runnable, amount: float) -> bool:
        """Weighted tokens are charged: its prompt when it is taken, then what it decodes; below 0 they are given back."""
        return False

    def served(self, call: Runnable, service: Service, now_s: float) -> bool:
        """A step has computed this for it."""
        return False

    def done(self, call: Runnable, now_s: float) -> bool:
        """It has ended."""
        return False

    def entered(self, program: Program, *, rested: bool) -> None:
        """Calls of it wait from here on. `rested`: it is not only a call that was put back."""

    def emptied(self, program: Program) -> None:
        """None of its calls waits."""

    def left(self, program: Program, now_s: float) -> None:
        """It has ended."""

    def aged(self, now_s: float) -> Iterable[Runnable]:
        """Waiting calls whose rank has changed because time has passed."""
        return ()

    # ---- what follows

    def key(self, program: Program, first: Runnable) -> Key:
        """Place of a program among those of its principal that wait; `first` is its first call that waits."""
        return first.rank

    def yields(self, running: Runnable, waiting: Runnable) -> bool:
        """Whether one that runs gives its row to one that waits, both of one principal, when there are no more rows. Must be an
        order that only service changes: two calls never yield to each other in turn."""
        return False
