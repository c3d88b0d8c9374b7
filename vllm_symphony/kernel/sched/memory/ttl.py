"""Kept for as long as that is likely to pay (kernel/sched/memory/ttl.py).

    tau* = argmax over tau of   P(the tool is back within tau) (T eta + reload)  -  tau

T is how long a call waits that finds its pages gone, reload what bringing them back costs, and eta = -Corr(k, N - k) says how much
a program's past calls tell of those to come. P is the empirical distribution of the tool's own times, so the best tau is one of
them, or none. With fewer than `cold` of them tau is what coming back too late costs, T eta + reload: then the waste is at most
twice what the best choice would have wasted (the break-even rule; Karlin et al., "Competitive snoopy caching", 1988).
When the time is over anybody may have the pages, who expired first gives first, and each goes the way that is back soonest.
Source: Continuum (arXiv 2511.02230), section 4; what it does on deadlock, unpin who arrived last, is the engine's wound-wait here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vllm_symphony.kernel.sched.memory.cost import Costs
from vllm_symphony.kernel.sched.memory.lru import STALE_S
from vllm_symphony.kernel.sched.memory.policy import LONGEST_S, Resident, Way, by_cost, reload_s
from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.predict import Predictor


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """`cold`: how many gaps of a kind must have been seen before their history is believed; 100 in the paper."""

    predictor: Predictor
    cold: int = 100

    name: ClassVar[str] = "ttl"
    help: ClassVar[str] = "files are kept for as long as that is likely to pay (Continuum)"
    parameters: ClassVar[Mapping[str, Parameter]] = {"cold": Parameter(100, 1, "gaps of a kind before their history is believed")}
    fetches: ClassVar[bool] = True

    def yields_s(self, r: Resident, costs: Costs, now_s: float) -> float:
        if r.rest is None:
            return r.last_used_s + STALE_S
        return min(r.rest.since_s + self._tau_s(r, costs), r.last_used_s + LONGEST_S)

    def rank(self, r: Resident, costs: Costs, now_s: float) -> float:
        return self.yields_s(r, costs, now_s)

    def ways(self, r: Resident, costs: Costs) -> tuple[Way, ...]:
        return by_cost(r, costs)

    def _tau_s(self, r: Resident, costs: Costs) -> float:
        assert r.rest is not None
        late_s = costs.requeue_s * self.predictor.turns() + reload_s(r, by_cost(r, costs)[0], costs)
        history = self.predictor.gaps(r.name, r.rest.why, r.rest.tool, self.cold)
        if history is None:
            return late_s
        count = len(history)
        gain, tau_s = max((i * late_s / count - value, value) for i, value in enumerate(history.values, start=1))
        return tau_s if gain > 0 else 0.0
