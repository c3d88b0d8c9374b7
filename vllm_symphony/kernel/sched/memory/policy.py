"""What a memory policy is asked, and what it knows (kernel/sched/memory/policy.py): who holds pages while nobody computes.

    idle file --yields_s--> until then only calls of older files may take its pages, from then on anybody's may
              --rank------> who of those gives first
              --ways------> how it gives: to host memory, to disk, or not at all below (its tokens rebuild it); least waste first

A policy decides, and does nothing. The rules that no policy can break are the engine's (engine/room.py, engine/tier.py): pinned
files never give, an older call always gets its pages, what cannot be computed again is never dropped, quotas of the tiers hold. So
a policy can be slow or wrong, but nothing deadlocks, starves or is lost by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vllm_symphony.kernel.sched.memory.cost import Costs
from vllm_symphony.kernel.sched.predict import Name

CODE = "code"  # what a thread rests for that has asked for nothing: its own code runs
LONGEST_S = 30.0  # no file is kept from younger calls for longer than this after it was used, whatever its policy expects


class Way(StrEnum):
    """Where pages go. DROP: nowhere, what was there is found below or computed again."""

    HOST = "host"
    DISK = "disk"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Rest:
    """What the thread waits for that used a file last: a tool (by name), a sleep, a message, a child, or its own code."""

    why: str
    tool: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Resident:
    """A file without a call that has pages on the device. `num_missing`: of its pages have no copy below; `exact`: its tokens
    rebuild it; `interval_s`: mean time between its uses so far; `rest`: None when its last user has ended, or is not known."""

    num_tokens: int
    num_pages: int
    num_missing: int
    exact: bool
    last_used_s: float
    interval_s: float = 0.0
    name: Name = ("", "")
    rest: Rest | None = None


class MemoryPolicy(Protocol):
    """One discipline. Pure: time comes in. `fetches`: pages below come back when their thread is about to go on."""

    @property
    def fetches(self) -> bool: ...

    def yields_s(self, r: Resident, costs: Costs, now_s: float) -> float:
        """By the clock, at most `LONGEST_S` after its last use: from when on anybody's call may take its pages."""

    def rank(self, r: Resident, costs: Costs, now_s: float) -> float:
        """Its place among those that may give; smaller gives first."""

    def ways(self, r: Resident, costs: Costs) -> tuple[Way, ...]:
        """Least waste first; the first that has room is taken. Never empty; no DROP for what is not exact."""


def reload_s(r: Resident, way: Way, costs: Costs) -> float:
    """What giving its pages this way costs, in seconds until they are back: both ways of a copy, or computing."""
    if way is Way.DROP:
        return costs.compute_s(r.num_tokens)
    return costs.move_s(way, r.num_missing) + costs.move_s(way, r.num_pages)


def by_cost(r: Resident, costs: Costs) -> tuple[Way, ...]:
    """All ways that lose nothing, the one that is back soonest first."""
    ways = (Way.HOST, Way.DISK, Way.DROP) if r.exact else (Way.HOST, Way.DISK)
    return tuple(sorted(ways, key=lambda way: reload_s(r, way, costs)))
