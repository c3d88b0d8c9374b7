"""What the server makes of the probe's word."""

import sys

import pytest

from vllm_symphony.abi.confinement import Missing
from vllm_symphony.engine import confinement
from vllm_symphony.engine.confinement import NONE, Confinement, Probe

FOUND = Confinement("B", ("seccomp", "landlock 7"), (Missing("user", "not root", "be root"), Missing("cgroup", "none", "make one")))


@pytest.mark.parametrize(("level", "demand", "is_met"), [("A", "A", True), ("A", "B", True), ("B", "A", False), ("C", "B", False)])
def test_a_demand_is_met_by_its_level_and_those_above(level, demand, is_met):
    assert Confinement(level).meets(demand) is is_met


def test_what_is_missing_is_told_with_its_remedy():
    assert FOUND.lacks() == "user: not root, fix: be root; cgroup: none, fix: make one"
    said = FOUND.shortfall("A")
    assert said.startswith("programs would be confined at level B only, A is demanded: user: not root") and "--unconfined" in said


def test_what_is_told_can_be_read_again():
    told = FOUND.told()

    assert told["lacks"] == FOUND.lacks()
    assert Confinement.read(told) == FOUND
    assert NONE.told() == {"level": "C", "active": [], "missing": [], "lacks": ""}


@pytest.mark.parametrize("program", ["print('no JSON')", "print('{}')", "raise SystemExit(3)", "print('[1]')"])
def test_a_probe_that_says_nothing_of_use_means_no_confinement(monkeypatch, program):
    monkeypatch.setattr(confinement, "_COMMAND", (sys.executable, "-c", program))

    found = Probe().result()

    assert found.level == "C"
    assert "the probe said nothing of use" in found.lacks()


def test_the_probe_of_this_machine_says_a_level_and_its_layers():
    found = Probe().result()

    assert found.level in ("A", "B", "C")
    assert ("seccomp" in found.active) == (found.level != "C")
    assert not found.missing or found.level != "A" or found.missing[0].layer in ("private root", "bounding set", "library")
