"""Places for programs: a user and a group each, taken and given back (runtime/sandbox/slot.py).

    slot = slots.take() -> fork, lock_down(slot.plan(...)) in the child -> slot.enter(os pid) -> ... -> reaped -> slots.give(slot)

The lowest free number is taken, so a few programs use a few users and groups. A group is made when its slot is taken first and
stays; its limits are set when they are others than the last program's.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from errno import EAGAIN

from vllm_symphony.runtime.sandbox.cgroup import Cgroups
from vllm_symphony.runtime.sandbox.plan import Plan
from vllm_symphony.runtime.sandbox.user import MAX_SLOTS


@dataclass(slots=True)
class Slot:
    """One place. `uid` is None where programs have no users of their own, `cgroups` where there are no groups."""

    number: int
    uid: int | None
    cgroups: Cgroups | None
    killed_before: int = 0

    def plan(self, plan: Plan) -> Plan:
        """The plan for who gets this place."""
        return replace(plan, uid=self.uid)

    def enter(self, os_pid: int) -> None:
        """Move the child into the group. Raises OSError when it is gone."""
        if self.cgroups is not None:
            self.cgroups.put(str(self.number), os_pid)

    def was_killed_for_memory(self) -> bool:
        """Whether the system killed a process here for its memory, since the slot was taken."""
        return self.cgroups is not None and self.cgroups.num_killed(str(self.number)) > self.killed_before

    def used_bytes(self) -> int:
        """Memory that the program has touched and not shared; 0 where there are no groups."""
        return self.cgroups.used_bytes(str(self.number)) if self.cgroups is not None else 0


@dataclass(slots=True)
class Slots:
    """All places of one fork server."""

    users: range = range(0)
    cgroups: Cgroups | None = None
    _free: list[int] = field(default_factory=list)
    _num_made: int = 0
    _limits: dict[int, tuple[int, int]] = field(default_factory=dict)  # that a place's group has: memory, tasks

    def take(self, plan: Plan) -> Slot:
        """The lowest free one, with the plan's limits. Raises OSError: there is none, or its group cannot be made."""
        number = heapq.heappop(self._free) if self._free else self._num_made
        if number >= (len(self.users) or MAX_SLOTS):
            raise OSError(EAGAIN, f"{number} programs have all the places")
        self._num_made = max(self._num_made, number + 1)
        slot = Slot(number, self.users[number] if self.users else None, self.cgroups)
        if self.cgroups is not None:
            try:
                if self._limits.get(number) != (plan.memory_bytes, plan.tasks):
                    self.cgroups.make(str(number), memory_bytes=plan.memory_bytes, tasks=plan.tasks)
                    self._limits[number] = plan.memory_bytes, plan.tasks
            except OSError:
                self.give(slot)
                raise
            slot.killed_before = self.cgroups.num_killed(str(number))
        return slot

    def give(self, slot: Slot) -> None:
        """Take it back; its process was reaped."""
        heapq.heappush(self._free, slot.number)

    def close(self) -> None:
        """Remove the groups; the programs have ended. Idempotent."""
        if self.cgroups is not None:
            self.cgroups.close()
            self.cgroups = None
