"""Faults on purpose (testing/fault.py): which call, which step, how often.

    calls of `forward`    1    2    3    4    5    6
    nth=3, times=2                  X    X              X: the fault strikes

Faults stack: each counts for itself what it could strike, and the first that strikes a call decides it. Chance comes from the
machine's seed, so a run with faults repeats too. Prior art: FoundationDB's simulation, where faults are laid over a workload.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from vllm_symphony.abi.types import Pid
from vllm_symphony.errors import SymphonyError


@dataclass(eq=False)
class Fault:
    """Strikes from the `nth` possible time on, `times` times (None: always), each time by `chance`."""

    nth: int = 1
    times: int | None = 1
    chance: float = 1.0
    rng: Random = field(default_factory=lambda: Random(0))
    num_seen: int = 0
    num_struck: int = 0

    def strikes(self) -> bool:
        """Count one possible time; whether the fault takes it."""
        self.num_seen += 1
        if self.num_seen < self.nth or (self.times is not None and self.num_struck >= self.times):
            return False
        if self.chance < 1.0 and self.rng.random() >= self.chance:
            return False
        self.num_struck += 1
        return True


@dataclass(eq=False)
class CallFault(Fault):
    """On calls `op` of `pid` (None: of any program): an error instead of an answer, or (None) the caller is killed."""

    op: str | None = None
    pid: Pid | None = None
    error: SymphonyError | None = None

    def meets(self, pid: Pid, op: str) -> bool:
        return self.op in (None, op) and self.pid in (None, pid)


@dataclass(eq=False)
class SlowSteps(Fault):
    """Steps of the device that take `factor` times as long."""

    factor: float = 1.0


class Faults:
    """All faults of one machine."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls: list[CallFault] = []
        self._steps: list[SlowSteps] = []

    def rng(self) -> Random:
        """A source for one more fault."""
        return Random(f"{self._seed}/fault {len(self._calls) + len(self._steps)}")

    def add(self, fault: CallFault | SlowSteps) -> None:
        if isinstance(fault, CallFault):
            self._calls.append(fault)
        else:
            self._steps.append(fault)

    def strike_call(self, pid: Pid, op: str) -> CallFault | None:
        """What strikes this call. All that it could meet have counted it."""
        struck = [fault for fault in self._calls if fault.meets(pid, op) and fault.strikes()]
        return struck[0] if struck else None

    def factor(self) -> float:
        """By what the next step is longer; slow steps multiply."""
        factor = 1.0
        for fault in self._steps:
            factor *= fault.factor if fault.strikes() else 1.0
        return factor
