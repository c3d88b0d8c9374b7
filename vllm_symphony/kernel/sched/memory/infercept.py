"""Least waste of memory over time (kernel/sched/memory/infercept.py).

For a file of C tokens whose thread is away for T seconds, in token-seconds of memory that does nothing:

    preserve   T C                                         its pages lie there until it is back
    drop       T_fwd(C) C / 2 + token_s C C_batch          while it is computed again, in chunks, its pages fill up, and the others
                                                           of the batch wait for the tokens that are computed beside theirs
    copy       2 T_copy(C) C                               while it leaves and comes back. Moves run beside the steps here, so the
                                                           batch does not wait for them as in the paper (2 T_swap C_batch)

The file gives as soon as keeping it would waste more; who wastes most for a page gives first. T comes from the tool's own history,
the mean of what took longer than this one has by now; with fewer than `cold` of them it is what has gone by, as in the paper.
A file nobody is known to come back to is expected again after as long as it is unused, or after its mean interval so far if that is
more: so what is used often outstays what was used once. It, and one whose thread's own code runs for the first times, is kept from
younger calls for `STALE_S`.
Source: InferCept (Abhyankar et al., arXiv 2402.01869), sections 3.2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vllm_symphony.kernel.sched.memory.cost import Costs
from vllm_symphony.kernel.sched.memory.lru import STALE_S
from vllm_symphony.kernel.sched.memory.policy import CODE, LONGEST_S, Resident, Way, by_cost, reload_s
from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.predict import Predictor


@dataclass(frozen=True, slots=True)
class InferCept:
    """`cold`: how many gaps of a kind must have been seen before their history is believed."""

    predictor: Predictor
    cold: int = 8

    name: ClassVar[str] = "infercept"
    help: ClassVar[str] = "who wastes most memory over time gives first, by measured costs and tools' histories (InferCept)"
    parameters: ClassVar[Mapping[str, Parameter]] = {"cold": Parameter(8, 1, "gaps of a kind before their history is believed")}
    fetches: ClassVar[bool] = True

    def yields_s(self, r: Resident, costs: Costs, now_s: float) -> float:
        began_s = r.last_used_s if r.rest is None else r.rest.since_s
        latest_s = r.last_used_s + LONGEST_S
        if self._is_unknown(r):
            return r.last_used_s + STALE_S
        enough_s = self._least_waste(r, costs) / max(1, r.num_tokens)  # away for longer than this it had better give
        away_s = self._away_s(r, now_s)
        if away_s >= enough_s:
            return min(began_s, latest_s)
        return min(max(began_s + enough_s, now_s + away_s), latest_s)  # when it should have been back, look again

    def rank(self, r: Resident, costs: Costs, now_s: float) -> float:
        gain = self._away_s(r, now_s) * r.num_tokens - self._least_waste(r, costs)
        return -gain / max(1, r.num_pages)

    def ways(self, r: Resident, costs: Costs) -> tuple[Way, ...]:
        return tuple(sorted(by_cost(r, costs), key=lambda way: self._waste(r, way, costs)))

    def _is_unknown(self, r: Resident) -> bool:
        return r.rest is None or (r.rest.why == CODE and self.predictor.gaps(r.name, CODE, "", self.cold) is None)

    def _away_s(self, r: Resident, now_s: float) -> float:
        """How much longer."""
        if r.rest is None:
            return max(now_s - r.last_used_s, r.interval_s)
        gone_s = max(0.0, now_s - r.rest.since_s)
        history = self.predictor.gaps(r.name, r.rest.why, r.rest.tool, self.cold)
        if history is None:
            return gone_s
        count, total_s = history.beyond(gone_s)
        return (total_s + 2 * gone_s) / (count + 1) - gone_s  # one more, that takes as long again: who outlived all

    def _least_waste(self, r: Resident, costs: Costs) -> float:
        return min(self._waste(r, way, costs) for way in by_cost(r, costs))

    @staticmethod
    def _waste(r: Resident, way: Way, costs: Costs) -> float:
        if way is Way.DROP:
            return costs.compute_s(r.num_tokens) * r.num_tokens / 2 + costs.token_s * r.num_tokens * costs.busy_tokens
        return reload_s(r, way, costs) * r.num_tokens
