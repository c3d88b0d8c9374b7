"""How to test a program: the best draft wins, the prompt is computed once, and a full cache is told to whoever asked."""

from pathlib import Path

import pytest

from vllm_symphony import lip
from vllm_symphony.testing import run_program

BEST_OF_N = Path(__file__).parents[1] / "best_of_n.py"


def test_the_likeliest_draft_wins(machine):
    machine.script({"Boat?": {"at sea": 0.8, "in port": 0.2}})
    run = machine.start(BEST_OF_N, question="Boat?", n=16, temperature=2.0)  # so free that both are drafted

    machine.run()

    assert run.value == "at sea"
    assert run.left_open == []


def test_the_prompt_is_computed_once(machine):
    machine.script("at sea")
    run = machine.start(BEST_OF_N, question="Boat?", n=5)

    machine.run()

    ops = [call.op for call in machine.calls(run)]
    assert ops.count("forward") == 1
    assert ops.count("fork") == ops.count("generate") == 5


def test_one_draft_without_room_fails_the_answer(machine):
    machine.script("at sea")
    machine.fail("generate", lip.OutOfPages("no page is free"), nth=2)

    with pytest.raises(lip.OutOfPages):
        run_program(BEST_OF_N, question="Boat?", machine=machine)
