"""Programs that speak to the kernel themselves: what is no frame costs them the link, what is no call is refused, others go on."""

import os

import pytest

from tests.attacks.arena import How

LOST = (137, "signal")  # who breaks the frames loses the link, and who stays on without it is killed


@pytest.mark.parametrize(
    "entry", ["giant_frame", "truncated_frame", "garbage", "nested_frame", "negative_id", "half_close", "pickle_payload"]
)
def test_what_is_no_frame_costs_the_program_its_link_and_its_life(arena, entry):
    outcome = arena.attack("protocol", entry)

    assert (outcome.code, outcome.reason) == LOST


def test_chunks_that_never_end_are_bounded(arena):
    outcome = arena.attack("protocol", "unfinished_chunks")

    assert outcome.value is None
    assert (outcome.code, outcome.reason) == LOST or "Broken pipe" in outcome.printed


def test_a_million_empty_maps_are_not_built(arena):
    outcome = arena.attack("protocol", "empty_maps")

    assert (outcome.code, outcome.value) == (0, None)  # the link is gone: what it returns is heard by nobody


def test_ids_of_others_reach_nobody(arena):
    other = arena.talk(lambda client: client.spawn("async def main():\n    import time\n    while True:\n        time.sleep(1)\n"))
    try:
        found = arena.attack("protocol", "forged_ids", other=other, how=How(token=arena.token("mallory"))).value
        state = {p.pid: p.state for p in arena.talk(lambda client: client.ps())}[other]
    finally:
        arena.talk(lambda client: client.kill(other, "KILL"))
        arena.talk(lambda client: client.wait(other))

    assert found == ["EINVAL", "ok", "EPERM", "EPERM", "ESRCH"]  # to cancel what does not exist is no error, and does nothing
    assert state == "running"


def test_of_calls_with_the_same_id_one_is_made(arena):
    assert sorted(arena.attack("protocol", "duplicate_ids").value) == ["EINVAL"] * 4 + ["ok"]


def test_what_is_no_number_here_is_refused(arena):
    found = arena.attack("protocol", "numbers").value

    assert len(found) == 11 and set(found) <= {"EINVAL", "EBADF", "ECHILD"}


def test_descriptors_that_are_passed_reach_nobody(arena):
    before = arena.host.num_fds()

    outcome = arena.attack("protocol", "pass_descriptors")

    assert outcome.code == 0
    assert arena.host.num_fds() <= before + 2


@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_of_calls_slows_its_program_only(arena, reads):
    assert arena.attack("protocol", "flood", reads=reads).code == 0


def test_a_pickle_is_bytes_and_nothing_else(arena):
    outcome = arena.attack("protocol", "pickle_in_values")

    assert outcome.value == "cposi"
    assert not os.path.exists("/tmp/symphony-pickle-was-here")


def test_calls_that_are_not_for_programs_are_refused(arena):
    assert set(arena.attack("protocol", "unknown_calls").value) <= {"ENOSYS", "EPERM", "EINVAL"}
