"""The file that was not used for longest gives first (kernel/sched/memory/lru.py): the baseline.

It knows nothing of programs: a file is kept for `stale_s` after its last use, goes to host memory where there is room, and is
dropped where its tokens rebuild it; only what cannot be rebuilt goes to disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vllm_symphony.kernel.sched.memory.cost import Costs
from vllm_symphony.kernel.sched.memory.policy import LONGEST_S, Resident, Way
from vllm_symphony.kernel.sched.parameter import Parameter

STALE_S = 1.0


@dataclass(frozen=True, slots=True)
class LeastRecentlyUsed:
    """`stale_s`: seconds without a use from which anybody may have the pages."""

    stale_s: float = STALE_S

    name: ClassVar[str] = "lru"
    help: ClassVar[str] = "the file that was not used for longest gives first, blind to programs"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "stale_s": Parameter(STALE_S, 0.0, "seconds without a use from which any call may have a file's pages")
    }
    fetches: ClassVar[bool] = False

    def yields_s(self, r: Resident, costs: Costs, now_s: float) -> float:
        return r.last_used_s + min(self.stale_s, LONGEST_S)

    def rank(self, r: Resident, costs: Costs, now_s: float) -> float:
        return r.last_used_s

    def ways(self, r: Resident, costs: Costs) -> tuple[Way, ...]:
        return (Way.HOST, Way.DROP) if r.exact else (Way.HOST, Way.DISK)
