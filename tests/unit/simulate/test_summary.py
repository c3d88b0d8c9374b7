"""Numbers of a play, and what the command line makes of them."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path

import pytest

from vllm_symphony.cli.main import main
from vllm_symphony.simulate.player import Host, Player
from vllm_symphony.simulate.probe import saturation, working_set
from vllm_symphony.simulate.summary import alone_s, jain, spread, summarise
from vllm_symphony.simulate.trace import Gap, Script, Trace, Turn
from vllm_symphony.simulate.workload import Shape, generate

HOST = Host(num_pages=4096)


def test_ranks_are_of_the_values_themselves() -> None:
    found = spread([float(i) for i in range(1, 101)])

    assert (found.mean, found.p50, found.p95, found.p99, found.most) == (50.5, 50.0, 95.0, 99.0, 100.0)
    assert isnan(spread([]).mean)


@pytest.mark.parametrize(("values", "index"), [([1.0, 1.0, 1.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25)])
def test_jains_index_is_one_for_equals_and_one_nth_for_one_that_has_all(values: list[float], index: float) -> None:
    assert jain(values) == pytest.approx(index)


@pytest.mark.parametrize(
    "script",
    [
        Script(0.0, "p", (Turn(500, 40), Gap("tool", 3.0), Turn(60, 30))),
        Script(0.0, "p", (Turn(20_000, 1),)),
        Script(0.0, "p", (Turn(100, 5), Turn(30, 50, 4), Turn(7, 9)), prefix=("book", 900)),
    ],
)
def test_a_program_that_is_alone_is_slowed_down_by_nothing(script: Script) -> None:
    played = Player(Trace("t", (script,)), HOST).play()

    assert played.end_s == pytest.approx(alone_s(script, HOST), rel=0.01)
    assert summarise(played).slowdown.mean == pytest.approx(1.0, rel=0.01)


def test_what_is_summed_up_is_what_happened() -> None:
    trace = Trace("t", (Script(0.0, "a", (Turn(64, 11),), "ann"), Script(0.0, "b", (Turn(64, 11),), "bob", killed_s=0.01)))

    found = summarise(Player(trace, HOST).play())

    assert (found.num_programs, found.num_failed, found.preempted, found.moved_pages) == (2, 1, 0, 0)
    assert found.utilisation == pytest.approx(1.0, rel=1e-3)
    assert found.programs_s == pytest.approx(1 / found.seconds)


def test_half_of_the_saturation_is_served_at_once_and_four_times_it_is_not() -> None:
    def slowdown(rate: float) -> float:
        return summarise(Player(generate("agents", Shape(40, rate)), host).play()).slowdown.mean

    host = Host(max_rows=4)

    most = saturation(generate("agents", Shape(40)), host)

    assert slowdown(most / 2) < 1.5 < slowdown(most * 4)


def test_the_working_set_is_what_is_held_without_an_end_of_pages() -> None:
    trace = Trace("t", tuple(Script(0.0, "p", (Turn(160, 1), Gap("tool", 10.0), Turn(16, 1))) for _ in range(4)))

    assert working_set(trace, Host(page_size=16, num_pages=20)) == pytest.approx(4 * 11, abs=4)


def test_the_command_plays_each_policy_and_gives_every_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "fair", "--programs", "10", "--policy", "fcfs", "--policy", "vtc", "--memory", "lru", "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["process"], line["memory"], len(line["samples"])) for line in lines] == [("fcfs", "lru", 10), ("vtc", "lru", 10)]


def test_a_trace_that_was_written_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "fair.jsonl")

    assert main(["simulate", "fair", "--programs", "5", "--rate", "2", "--write", path]) == 0
    assert main(["simulate", path, "--policy", "plas"]) == 0

    assert "fair: 5 programs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nothing"], "no workload"),
        (["mix", "--policy", "best"], "no process policy"),
        (["mix", "--memory", "best"], "no memory policy"),
        (["mix", "--policy", "vtc:weight=heavy"], "NAME:PARAMETER=NUMBER"),
        (["mix", "--pages", "5", "--pressure", "2"], "--pages and --pressure"),
        (["mix", "--rate", "5", "--load", "2"], "--rate and --load"),
        (["mix", "--rows", "0"], "1 or more"),
        (["mix", "--step-time", "/no/such"], "calibrate"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *words]) == 1

    assert why in capsys.readouterr().err
