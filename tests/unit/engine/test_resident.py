"""Whose files are, what their threads wait for, and what is learned of their gaps."""

from __future__ import annotations

import pytest

from vllm_symphony.abi.types import Ino, Pid
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.resident import Residents
from vllm_symphony.kernel.effect import Owner, Rests, Resumes
from vllm_symphony.kernel.sched.predict import Predictor

ANN, BOB = Owner(Pid(1), 0, "ann", "agent"), Owner(Pid(2), 0, "bob", "chat")


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.predictor = Predictor()
        self.residents = Residents(4, self.predictor, lambda: self.now)

    def file(self, num_tokens: int = 10, below: int = 0, **more: object) -> PagedFile:
        f = PagedFile(Ino(1), list(range(num_tokens)), "", born=self.now, frontier=num_tokens, below=below)
        f.blocks = [object()] * -(-num_tokens // 4)
        return f

    def call(self, f: PagedFile, owner: Owner, seconds: float = 1.0) -> None:
        self.residents.begins(f, owner)
        self.now += seconds
        f.used(self.now)
        self.residents.ends(f)
        self.residents.check()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_file_rests_as_its_thread_does(rig: Rig) -> None:
    f = rig.file()
    rig.call(f, ANN)
    assert rig.residents.view(f).rest.why == "code"

    rig.residents.rests(Rests(Pid(1), 0, "tool", "web", 7))
    rig.now += 2.0
    view = rig.residents.view(f)
    assert (view.rest.why, view.rest.tool, view.rest.since_s, view.name) == ("tool", "web", 1.0, ("ann", "agent"))

    rig.residents.resumes(Resumes(Pid(1), 0, 7))
    rest = rig.residents.view(f).rest
    assert (rest.why, rest.since_s) == ("code", 3.0)
    assert rig.predictor.gaps(("ann", "agent"), "tool", "web", 1).values == [2.0]


def test_the_gaps_of_a_threads_own_code_are_learned_from_its_calls(rig: Rig) -> None:
    f = rig.file()
    rig.call(f, ANN)
    rig.now += 0.25
    rig.call(f, ANN)

    assert rig.predictor.gaps(("ann", "agent"), "code", "", 1).values == [0.25]


def test_with_several_waits_the_last_that_began_counts_and_any_may_end_first(rig: Rig) -> None:
    f = rig.file()
    rig.call(f, ANN)
    rig.residents.rests(Rests(Pid(1), 0, "tool", "slow", 7))
    rig.residents.rests(Rests(Pid(1), 0, "tool", "fast", 8))
    assert rig.residents.view(f).rest.tool == "fast"

    rig.residents.resumes(Resumes(Pid(1), 0, 8))

    assert rig.residents.view(f).rest.tool == "slow"


def test_a_file_is_its_last_users_and_nobodys_when_that_has_ended(rig: Rig) -> None:
    f = rig.file()
    rig.call(f, ANN)
    rig.call(f, BOB)
    rig.residents.gone(Pid(1))
    assert rig.residents.view(f).name == ("bob", "chat")

    rig.residents.gone(Pid(2))

    assert rig.residents.view(f).rest is None and rig.residents.thread_of(f) is None
    rig.residents.check()


def test_a_thread_without_files_is_forgotten(rig: Rig) -> None:
    f = rig.file()
    rig.call(f, ANN)
    rig.residents.forget(f)
    rig.residents.check()

    assert rig.residents.rests(Rests(Pid(1), 0, "sleep")) is None
    assert rig.residents.resumes(Resumes(Pid(1), 0)) is None


def test_the_kernels_own_jobs_leave_a_file_whose_it_was(rig: Rig) -> None:
    f = rig.file()
    rig.call(f, ANN)
    rig.residents.begins(f, Owner())

    assert rig.residents.view(f).name == ("ann", "agent")


@pytest.mark.parametrize(
    ("num_tokens", "below", "missing"), [(10, 0, 3), (10, 4, 2), (10, 9, 1), (10, 10, 0), (8, 12, 0), (8, 5, 1)]
)
def test_missing_pages_are_those_that_no_copy_covers(rig: Rig, num_tokens: int, below: int, missing: int) -> None:
    assert rig.residents.view(rig.file(num_tokens, below)).num_missing == missing
