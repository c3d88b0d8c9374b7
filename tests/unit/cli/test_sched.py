"""Policies on the command line: flags of serve as the kernel host hears them, and the words of `symphony sched`."""

from __future__ import annotations

import argparse
import queue
from pathlib import Path
from typing import Any

import pytest

from vllm_symphony.abi.calls import SchedResult
from vllm_symphony.abi.types import PolicyStat, PrincipalStat
from vllm_symphony.cli import sched, serve
from vllm_symphony.engine.boot import Ground, host_parser
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.effect import SetPolicy
from vllm_symphony.kernel.sched import catalogue


def host_words(*words: str) -> list[str]:
    parser = argparse.ArgumentParser()
    serve.arguments(parser)
    return [*serve._host_flags(parser.parse_args(list(words)), "warning"), "--socket", "kernel.sock", "--unconfined"]


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sched.arguments(parser)
    return sched.parse(parser, list(words))


def test_without_flags_the_host_is_told_of_no_policy():
    assert Ground(host_parser().parse_args(host_words())).policies == ()


def test_policies_reach_the_host():
    words = host_words("--sched-policy", "plas:quantum=64", "--memory-policy", "lru", "--batch-policy", "immediate")

    assert Ground(host_parser().parse_args(words)).policies == (
        SetPolicy("process", "plas", (("quantum", 64.0),)), SetPolicy("memory", "lru"), SetPolicy("batch", "immediate"),
    )  # fmt: skip


class Listening(SimDevice):
    """Remembers what it was told first."""

    def __init__(self, **sim: Any) -> None:
        super().__init__(**sim)
        self.told: queue.Queue[list[Any]] = queue.Queue()

    def submit(self, effects: Any) -> None:
        self.told.put(list(effects))
        super().submit(effects)


def test_the_device_is_told_before_anybody_calls(tmp_path: Path):
    words = host_words("--sched-policy", "plas:quantum=64", "--memory-policy", "ttl")
    ground = Ground(host_parser().parse_args([*words, "--socket", str(tmp_path / "kernel.sock")]))
    device = Listening(tiers=ground.tiers)

    reactor, _ = ground.boot(device, lambda _: None, lambda _: None)
    told = device.told.get(timeout=10)
    reactor.stop()

    assert told == [SetPolicy("process", "plas", (("quantum", 64.0),)), SetPolicy("memory", "ttl")]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--sched-policy=best", "no process policy is called 'best': there are fcfs, "),
        ("--memory-policy=lru:cold=1", "lru has no parameter 'cold': it has stale_s"),
        ("--sched-policy=plas:quantum=0", "quantum of plas must be a number of 1 or more, not 0"),
        ("--batch-policy=rate", "rate is for `symphony simulate` only; here there are immediate, cohort"),
    ],
)
def test_a_wrong_policy_is_refused_before_anything_starts(flag: str, said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        host_words(flag)

    assert said in capsys.readouterr().err


def test_the_host_refuses_it_too():
    args = host_parser().parse_args(["--socket", "kernel.sock", "--unconfined", "--sched-policy", "best"])

    with pytest.raises(InvalidArgument, match="no process policy is called 'best'"):
        Ground(args)


def test_both_helps_list_all_policies_and_parameters(capsys: pytest.CaptureFixture[str]):
    for command in (serve, sched):
        parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
        command.arguments(parser)

        parser.print_help()

        text = capsys.readouterr().out
        assert all(line in text for level in catalogue.LEVELS for line in catalogue.told(level))


def test_without_words_it_shows():
    assert parsed().action == "show"


@pytest.mark.parametrize("level", ["process", "proc", "p"])
def test_names_may_be_cut_short_as_long_as_one_alone_begins_so(level: str):
    args = parsed("set", level, "pl:quantum=64")

    assert (args.level, args.policy) == ("process", SetPolicy("process", "plas", (("quantum", 64.0),)))


def test_a_beginning_of_several_names_is_none():
    with pytest.raises(InvalidArgument, match="no process policy is called 'p': there are fcfs, priority"):
        parsed("set", "process", "p")


def test_a_weight_a_cap_or_both_are_given():
    assert (parsed("weigh", "ci", "0.5").weight, parsed("weigh", "ci", "--cap", "8").weight) == (0.5, None)
    assert (parsed("weigh", "ci", "2", "--cap", "none").cap, parsed("weigh", "ci", "--cap", "8").cap) == (-1, 8)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "process"), "set takes LEVEL POLICY"),
        (("set", "process", "fcfs", "vtc"), "set takes LEVEL POLICY"),
        (("show", "process"), "show takes no words"),
        (("weigh", "ci"), "weigh takes a WEIGHT, --cap or both"),
        (("weigh", "ci", "0"), "'0' is no weight: a number above 0"),
        (("weigh", "ci", "--cap", "0"), "'0' is no number from 1 on, and not none"),
        (("show", "--cap", "1"), "--cap is of weigh"),
        (("change",), "invalid choice: 'change'"),
    ],
)
def test_other_words_are_refused_with_what_is_right(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parsed(*words)

    assert said in capsys.readouterr().err


def test_what_is_shown_names_policies_principals_and_errors():
    found = SchedResult(
        (PolicyStat("process", "plas", {"quantum": 64.0, "patience": 16.0}, "set"),),
        (PrincipalStat("ci", 0.5, 8, 3, 40, 1234.0),), 3, 40, {"tokens": 0.25},
    )  # fmt: skip

    assert sched.lines(found) == [
        "LEVEL    POLICY  PARAMETERS               FROM  DECIDES",
        "process  plas    patience=16, quantum=64  set   who goes first",
        "",
        "PRINCIPAL  WEIGHT  CAP  RUNNING  WAITING  SERVICE",
        "ci            0.5    8        3       40     1234",
        "",
        "3 calls compute, 40 wait for their turn",
        "predictions are off by: tokens 25%",
    ]
