"""Places for programs: the lowest free one, with a user and a group."""

from errno import EAGAIN

import pytest

from vllm_symphony.runtime.sandbox import Layers, Plan
from vllm_symphony.runtime.sandbox.slot import Slots
from vllm_symphony.runtime.sandbox.user import BASE, MAX_SLOTS, range_here

PLAN = Plan("python", Layers(), memory_bytes=1 << 20, tasks=4)
BIGGER = Plan("python", Layers(), memory_bytes=2 << 20, tasks=4)


class Groups:
    """What would be asked of control groups."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.killed: dict[str, int] = {}
        self.is_broken = False

    def make(self, name: str, *, memory_bytes: int, tasks: int) -> None:
        if self.is_broken:
            raise OSError(EAGAIN, "full")
        self.made.append((name, memory_bytes))

    def num_killed(self, name: str) -> int:
        return self.killed.get(name, 0)


def test_the_lowest_free_place_is_taken():
    slots = Slots(range(100, 110))

    first, second, third = (slots.take(PLAN) for _ in range(3))
    slots.give(second)
    slots.give(first)

    assert [first.uid, second.uid, third.uid] == [100, 101, 102]
    assert [slots.take(PLAN).uid for _ in range(3)] == [100, 101, 103]
    assert first.plan(PLAN).uid == 100


def test_when_all_are_taken_the_next_one_is_told_and_nothing_is_lost():
    slots = Slots(range(5, 7))
    taken = [slots.take(PLAN), slots.take(PLAN)]

    with pytest.raises(OSError, match="2 programs have all the places"):
        slots.take(PLAN)
    slots.give(taken[1])

    assert slots.take(PLAN).uid == 6


def test_a_group_is_made_once_and_its_limits_are_set_when_they_change():
    groups = Groups()
    slots = Slots(cgroups=groups)

    for plan in (PLAN, PLAN, BIGGER, PLAN):
        slots.give(slots.take(plan))

    assert groups.made == [("0", 1 << 20), ("0", 2 << 20), ("0", 1 << 20)]


def test_a_place_whose_group_cannot_be_made_is_given_back():
    groups = Groups()
    slots = Slots(cgroups=groups)
    groups.is_broken = True

    with pytest.raises(OSError, match="full"):
        slots.take(PLAN)
    groups.is_broken = False

    assert slots.take(PLAN).number == 0


def test_only_what_was_killed_since_the_place_was_taken_counts():
    groups = Groups()
    slots = Slots(cgroups=groups)
    groups.killed["0"] = 3

    slot = slots.take(PLAN)
    assert not slot.was_killed_for_memory()
    groups.killed["0"] = 4

    assert slot.was_killed_for_memory()


def test_users_are_far_above_those_of_people(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("vllm_symphony.runtime.sandbox.user._is_mapped", lambda users, name: True)

    users = range_here()

    assert users[0] >= BASE and users[-1] < 2**31 and len(users) == MAX_SLOTS


def test_where_only_the_first_65536_are_mapped_the_highest_below_nobody_are_taken(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("vllm_symphony.runtime.sandbox.user._is_mapped", lambda users, name: users[-1] < 65_536)

    assert range_here() == range(64_000, 65_000)


def test_who_is_not_root_has_no_users_to_give(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert range_here() == range(0)
