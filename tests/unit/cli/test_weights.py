"""Weights of plain requests and programs, from the command line of serve to the kernel host."""

from __future__ import annotations

import argparse

import pytest

from vllm_symphony.cli import serve
from vllm_symphony.engine.boot import Ground, host_parser
from vllm_symphony.errors import InvalidArgument


def host_words(*words: str) -> list[str]:
    parser = argparse.ArgumentParser()
    serve.arguments(parser)
    return [*serve._host_flags(parser.parse_args(list(words)), "warning"), "--socket", "kernel.sock", "--unconfined"]


def test_both_weights_are_1_unless_said_otherwise():
    share = Ground(host_parser().parse_args(host_words())).share

    assert (share.plain, share.programs) == (1, 1)


def test_weights_reach_the_host():
    share = Ground(host_parser().parse_args(host_words("--weight-plain", "3", "--weight-programs", "0.5"))).share

    assert (share.plain, share.programs) == (3, 0.5)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "much"])
def test_a_weight_that_is_no_number_above_0_is_refused(weight, capsys):
    with pytest.raises(SystemExit):
        host_words(f"--weight-plain={weight}")

    assert f"'{weight}' is no weight: a number above 0" in capsys.readouterr().err


def test_the_host_refuses_it_too():
    args = host_parser().parse_args(["--socket", "kernel.sock", "--unconfined", "--weight-plain", "0"])

    with pytest.raises(InvalidArgument, match="weight of plain must be a number above 0, not 0"):
        Ground(args)
