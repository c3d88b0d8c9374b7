"""The debate: who speaks when, what is computed once, and what a death of one side does."""

from pathlib import Path

import pytest

from vllm_symphony.testing import SimModel

DEBATE = Path(__file__).parents[1] / "debate.py"
QUESTION = "Two experts debate. The question: Why?\n"


@pytest.fixture
def scripted(machine):
    """A model that says what each side says to what it has heard."""
    machine.script({
        f'{QUESTION}\n\nFor: "': " It is right.\n",
        'For: It is right.\nAgainst: "': " It is not.\n",
        'Against: It is not.\nFor: "': " It is!\n",
        'For: It is!\nAgainst: "': " No.\n",
    }, otherwise=SimModel())  # fmt: skip
    return machine


def test_they_speak_in_turn_and_hear_each_other(scripted):
    run = scripted.start(DEBATE, question="Why?")
    scripted.run()

    assert run.value == ["For: It is right.", "Against: It is not.", "For: It is!", "Against: No."]
    assert run.emitted == run.value
    assert all(r.left_open == [] and r.status.code == 0 for r in scripted.runs.values())


def test_what_both_were_told_is_computed_once(scripted):
    run = scripted.start(DEBATE, question="Why?")
    scripted.run()

    forwards = [call for pid in scripted.runs for call in scripted.calls(pid, "forward")]
    assert [call.pid for call in forwards] == [run.pid]


def test_a_side_that_dies_ends_the_debate_with_an_error(scripted):
    scripted.kill_at("generate", nth=2)

    run = scripted.start(DEBATE, question="Why?")
    scripted.run()

    assert run.status.code == 1 and "EPIPE" in (run.status.error or "")
