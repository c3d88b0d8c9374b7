"""Which policies decide and what principals' parts are, as the kernel knows it (kernel/sched/settings.py).

    by default  <  by a flag of this start  <  set while it runs          of each level the last one that there is
    weight 1, no cap  <  set while it runs                                of each principal

What was set while it runs is kept by the store, as quotas are, and holds after the next start too; but a level for which that
start has a flag: who starts the server has the last word. The device is told of each change by an effect, in order with the
calls: those that wait are ordered anew, and none is lost (kernel/sched/queue.py `use`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vllm_symphony.abi.record import PolicyRecord, Restored, WeightRecord
from vllm_symphony.abi.types import PolicyStat
from vllm_symphony.errors import InvalidArgument, SymphonyError
from vllm_symphony.kernel.effect import SetPolicy, StoreWrite, Weigh
from vllm_symphony.kernel.sched import catalogue

if TYPE_CHECKING:
    from vllm_symphony.kernel.effect import Effect

DEFAULT, FLAG, SET = "default", "flag", "set"  # where a policy comes from
FLAGS = {level: f"--{'sched' if level == catalogue.PROCESS else level}-policy" for level in catalogue.LEVELS}  # of `symphony serve`


class Settings:
    """`weights`: of those principals for whom some were set."""

    def __init__(self, emit: Callable[[Effect], None], keeps: Callable[[], bool]) -> None:
        """`keeps`: there is a store that outlives us."""
        self._emit = emit
        self._keeps = keeps
        self._begun = {level: (SetPolicy(level, name), DEFAULT) for level, name in catalogue.DEFAULTS.items()}
        self._set: dict[str, SetPolicy] = {}
        self.weights: dict[str, WeightRecord] = {}
        self.unknown: list[PolicyRecord] = []  # kept by another version, and not there in this one

    # ---- policies

    def policy(self, level: str) -> SetPolicy:
        """Who decides at this level."""
        return self._set.get(level) or self._begun[level][0]

    def begin_with(self, level: str, name: str, parameters: Mapping[str, float]) -> None:
        """The host's word at the start. Raises as `catalogue.demand`."""
        self._begun[level] = (_checked(level, name, parameters), FLAG)
        self._tell(level)

    def choose(self, level: str, name: str, parameters: Mapping[str, float]) -> None:
        """From here on this policy decides, after a restart too. Raises as `catalogue.demand`."""
        self._set[level] = _checked(level, name, parameters)
        self._keep(PolicyRecord(level, name, dict(parameters)))
        self._tell(level)

    def forget(self, level: str) -> None:
        """What was set does not hold any more: as at the start, or by default. Raises InvalidArgument: no such level."""
        catalogue.demand(level, catalogue.DEFAULTS.get(level, ""), {})
        if self._set.pop(level, None) is not None:
            self._tell(level)
        self._keep(PolicyRecord(level))

    def shown(self) -> tuple[PolicyStat, ...]:
        """Of each level who decides, with all parameters."""
        return tuple(
            PolicyStat(level, p.name, catalogue.values(level, p.name, dict(p.parameters)), self._source(level))
            for level in catalogue.LEVELS
            for p in (self.policy(level),)
        )

    def _source(self, level: str) -> str:
        return SET if level in self._set else self._begun[level][1]

    def _tell(self, level: str) -> None:
        self._emit(self.policy(level))

    # ---- principals

    def weigh(self, principal: str, weight: float, cap: int | None) -> None:
        """From here on this is a principal's part, and the most of its calls at once.

        Raises:
            InvalidArgument: the weight is no number above 0, or the cap is below 1.
        """
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidArgument(f"the weight of {principal} must be a number above 0, not {weight:g}", principal=principal)
        if cap is not None and cap < 1:
            raise InvalidArgument(f"the cap of {principal} must be 1 or more, not {cap}", principal=principal)
        record = WeightRecord(principal, float(weight), cap)
        self._weigh(record)
        if self._keeps():
            self._emit(StoreWrite(weights=(record,)))

    def weight(self, principal: str) -> WeightRecord:
        """What a principal has, set or not."""
        return self.weights.get(principal, WeightRecord(principal))

    def _weigh(self, record: WeightRecord) -> None:
        self.weights.pop(record.principal, None)
        if record != WeightRecord(record.principal):
            self.weights[record.principal] = record
        self._emit(Weigh(record.principal, record.weight, record.cap))

    # ---- the store

    def restore(self, restored: Restored) -> None:
        """What was set before the server stopped. A policy that is not there any more is passed over (`unknown`)."""
        for record in restored.weights:
            self._weigh(record)
        for kept in restored.policies:
            try:
                policy = _checked(kept.level, kept.name, kept.parameters)
            except SymphonyError:
                self.unknown.append(kept)
                continue
            if self._begun[kept.level][1] != FLAG:
                self._set[kept.level] = policy
                self._tell(kept.level)

    def _keep(self, record: PolicyRecord) -> None:
        if self._keeps():
            self._emit(StoreWrite(policies=(record,)))


def _checked(level: str, name: str, parameters: Mapping[str, float]) -> SetPolicy:
    catalogue.demand(level, name, parameters)
    return SetPolicy(level, name, tuple(parameters.items()))
