"""Programs that take all they can get: each ends as documented, and others do not notice."""

import errno

import pytest

from tests.attacks.arena import How, program
from vllm_symphony.abi.types import ResourceLimits

SHORT = How(ResourceLimits(cpu_s=1.0))
SMALL = How(ResourceLimits(memory_bytes=96 << 20))


def test_a_fork_bomb_forks_nothing(arena):
    outcome = arena.attack("resources", "fork_bomb")

    assert (outcome.code, outcome.value) == (0, ["PermissionError"])


def test_vfork_clone_and_clone3_make_no_process_either(arena):
    outcome = arena.attack("resources", "raw_forks")

    refused = {name: tuple(v) for name, v in outcome.value.items()}
    assert refused.pop("clone3") == (-1, errno.ENOSYS)
    assert set(refused.values()) == {(-1, errno.EPERM)}


def test_no_program_of_the_machine_can_be_run(arena):
    outcome = arena.attack("resources", "subprocesses")

    assert set(outcome.value) <= {"PermissionError", "FileNotFoundError"} and len(outcome.value) == 3


def test_a_thread_bomb_has_sixteen_threads(arena):
    outcome = arena.attack("resources", "thread_bomb")

    assert outcome.code == 0 and 8 <= outcome.value <= 15


def test_a_spawn_bomb_is_one_tree_with_one_budget(arena):
    outcome = arena.attack("resources", "spawn_bomb", how=How(ResourceLimits(processes=8, depth=3)))

    num, refused = outcome.value
    assert num < 100 and refused == ["EDQUOT"]


@pytest.mark.parametrize("entry", ["heap", "mapped"])
def test_a_memory_bomb_is_killed_at_its_limit_and_says_so(arena, entry):
    outcome = arena.attack("resources", entry, how=SMALL)

    if outcome.code == 1:  # the address space was used up first
        assert "MemoryError" in outcome.error or "Cannot allocate memory" in outcome.error
    else:
        assert (outcome.code, outcome.reason) == (137, "limit")


@pytest.mark.parametrize("entry", ["big_integer", "long_text"])
def test_what_cannot_fit_is_refused_at_once(arena, entry):
    assert arena.attack("resources", entry).value in ("MemoryError", "OverflowError")


def test_programs_that_spin_end_when_their_cpu_time_is_spent_whatever_they_spin_in_and_catch(arena):
    entries = ("spin", "spin_and_catch", "spin_in_threads", "spin_in_c", "power")

    outcomes = arena.run_all([program("resources", entry) for entry in entries], how=SHORT)

    assert [(end.code, end.reason) for end in outcomes] == [(124, "limit")] * len(entries)
    assert all("cpu" in end.error for end in outcomes)


def test_endless_recursion_is_an_exception(arena):
    outcome = arena.attack("resources", "recursion")

    assert (outcome.code, outcome.reason) == (1, "exception") and "RecursionError" in outcome.error


@pytest.mark.parametrize("entry", ["deep_recursion", "segfault"])
def test_a_crash_of_the_interpreter_is_the_programs_own(arena, entry):
    outcome = arena.attack("resources", entry)

    assert (outcome.code, outcome.reason) == (139, "signal")


def test_descriptors_run_out_at_their_limit_and_the_machine_is_still_there(arena):
    num, error = arena.attack("resources", "descriptors").value

    assert num < 64 and error == errno.EMFILE


def test_nothing_can_be_put_on_a_disk_or_in_a_memory_file(arena):
    assert arena.attack("resources", "disk").value == []


def test_a_flood_of_output_slows_its_program_only(arena):
    assert arena.attack("resources", "output").value is True


def test_who_holds_more_than_the_cache_does_not_starve_others(arena):
    outcome = arena.attack("resources", "kv_pages")

    assert outcome.code == 0 and outcome.value in ("all fitted", "ENOSPC", "EDQUOT")
