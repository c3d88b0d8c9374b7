"""How to test programs that start others: what each child had, how it ended, and what the parent made of it."""

from pathlib import Path

from vllm_symphony.testing import SimModel

EXAMPLES = Path(__file__).parents[1]


def play(machine, name, **args):
    run = machine.start(EXAMPLES / f"{name}.py", **args)
    machine.run()
    assert run.left_open == []
    return run.value


def test_parts_are_summed_up_by_children_of_their_own(machine):
    machine.script({"A b.": "ab", "C d.": "cd", "ab cd": "all"}, otherwise=SimModel())

    result = play(machine, "map_reduce", text="A b. C d.", parts=2)

    assert (result["summary"], result["read"], result["lost"]) == ("all", 2, [])
    assert len(machine.runs) == 3


def test_a_child_with_too_small_a_share_is_told_and_the_others_count(machine):
    result = play(machine, "map_reduce", budget=30)

    assert result["read"] == 0 and len(result["lost"]) == 3
    assert result["summary"]


def test_a_failing_child_is_started_again_after_longer_and_longer_pauses(machine):
    result = play(machine, "supervisor", fails=3, tries=5, pause_s=1.0)

    assert result["ends"] == ["exception", "exception", "exception", "exit"] and result["answer"]
    assert 7.0 <= machine.now_s < 8.0, "1 + 2 + 4 seconds"


def test_the_supervisor_gives_up_in_the_end(machine):
    result = play(machine, "supervisor", fails=9, tries=2)

    assert result == {"answer": None, "ends": ["exception", "exception"]}


def test_what_the_model_writes_runs_and_its_value_is_the_answer(machine):
    machine.script({"below 10?": "```python\ndef main():\n    return sum(n * n for n in range(10))\n```\n"}, otherwise=SimModel())

    assert play(machine, "code_act", max_tokens=400) == {"answer": 285, "errors": []}


def test_what_goes_wrong_is_told_to_the_model(machine):
    wrong, right = "```python\ndef main():\n    return 1 / 0\n```\n", "```python\ndef main():\n    return 7\n```\n"
    machine.script({"below 10?": wrong, "Once more:\n": right}, otherwise=SimModel())

    result = play(machine, "code_act", max_tokens=400)

    assert result["answer"] == 7 and "division by zero" in result["errors"][0]


def test_generated_code_has_no_tokens_no_children_and_ends_in_time(machine):
    greedy = """```python
from vllm_symphony import lip

async def main():
    found = []
    for what in (lip.open(tokens=[1, 2]), lip.spawn("def main(): pass")):
        try:
            await what
        except lip.QuotaExceeded as error:
            found.append(error.values["resource"])
    return found
```
"""
    machine.script({"below 10?": greedy}, otherwise=SimModel())

    assert play(machine, "code_act", max_tokens=800)["answer"] == ["tokens", "depth"]
