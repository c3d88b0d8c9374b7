"""The examples with tools, on a machine whose model asks for them and whose tools answer as a test says."""

import json
from pathlib import Path
from typing import Any

from vllm_symphony import lip
from vllm_symphony.testing import Machine

EXAMPLES = Path(__file__).parents[2] / "examples"


def play(machine: Machine, name: str, **args: Any) -> Any:
    run = machine.start(EXAMPLES / f"{name}.py", **args)
    machine.run()
    assert run.left_open == []
    return run


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_the_agent_runs_what_the_model_asks_for_until_it_answers(machine: Machine) -> None:
    machine.tool("add", lambda a, b: a + b)
    machine.tool("half", lambda n: n / 2)
    machine.script({"Do it.": call("add", a=4, b=6), "10": call("half", n=10), "5.0": "It is 5."})

    run = play(machine, "react_agent", task="Do it.")

    assert run.value == {"answer": "It is 5.", "used": ["add", "half"]}
    assert machine.props.calls == [("add", {"a": 4, "b": 6}), ("half", {"n": 10})]
    assert run.stdout == 'add {"a": 4, "b": 6}\nhalf {"n": 10}\n'


def test_the_agent_computes_only_what_is_new_in_a_step(machine: Machine) -> None:
    machine.tool("look", "a very long page " * 40)
    machine.script({"Look.": call("look"), "page ": "Seen."})

    run = play(machine, "react_agent", task="Look.")

    computed = sum(step.num_tokens for step in machine.kernel.steps)
    assert run.value["answer"] == "Seen."
    prompt = len(machine.call("render_chat", lip_chat("Look.")).tokens) // 4
    assert computed < 2 * prompt + 40 * 17 + 200


def lip_chat(text: str) -> Any:
    from vllm_symphony.abi.calls import RenderChat

    return RenderChat(json.dumps([{"role": "user", "content": text}]))


def test_the_agent_tells_the_model_what_went_wrong_and_goes_on(machine: Machine) -> None:
    machine.tool("look", lip.BrokenPipe("no connection"))
    machine.script({"Look.": call("look"), "no connection": call("lock"), "no such tool: lock": "I give up."})

    assert play(machine, "react_agent", task="Look.").value == {"answer": "I give up.", "used": ["look", "lock"]}


def test_an_agent_that_never_answers_has_a_limit(machine: Machine) -> None:
    machine.tool("look", "again")
    machine.script({"Look.": call("look"), "again": call("look")})

    assert play(machine, "react_agent", task="Look.", steps=3).value["used"] == ["look"] * 3


def test_notes_are_what_the_model_knows(machine: Machine) -> None:
    kept: list[str] = []
    machine.tool("notes_add", lambda text: kept.append(text) or len(kept))
    machine.tool("notes_search", lambda words: {"result": [note for note in kept if set(words) & set(note.split())]})
    machine.script({"When does the boat come?": "On Monday."})

    run = play(machine, "mcp_notes", question="When does the boat come?", fact="The boat comes on Monday.")

    assert run.value == {"answer": "On Monday.", "notes": ["The boat comes on Monday."]}
    assert machine.props.calls[1] == ("notes_search", {"words": ["When", "does", "the", "boat", "come"]})
