"""Tools as programs see them, on a machine whose tools a test plays."""

import json
from typing import Any

import pytest

from vllm_symphony import lip
from vllm_symphony.testing import Machine

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def stage(machine: Machine) -> Machine:
    machine.tool("weather", lambda city: f"sunny in {city}", parameters=PARAMETERS, description="The weather.")
    machine.tool("roll", lambda sides=6: {"value": sides}, takes_s=2.0)
    machine.tool("broken", lip.BrokenPipe("no connection"))
    return machine


def run(m: Machine, program: Any, **args: Any) -> Any:
    started = m.start(program, **args)
    m.run()
    return started.value


def test_schemas_are_as_in_the_openai_api_and_go_into_render_chat(stage: Machine) -> None:
    async def main() -> Any:
        found = await lip.tools("wea*")
        await lip.render_chat("hi", tools=found)
        return found, [t["function"]["name"] for t in await lip.tools()]

    found, names = run(stage, main)

    assert found == [
        {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}}
    ]  # fmt: skip
    assert names == ["broken", "roll", "weather"]


def test_arguments_come_as_a_mapping_by_name_or_both(stage: Machine) -> None:
    async def main() -> Any:
        a = await lip.call_tool("weather", {"city": "Lima"})
        b = await lip.call_tool("weather", city="Cusco")
        c = await lip.call_tool("roll", {}, sides=20)
        return a.content, b.content, json.loads(c.json or "")

    assert run(stage, main) == ["sunny in Lima", "sunny in Cusco", {"value": 20}]
    assert stage.props.calls == [("weather", {"city": "Lima"}), ("weather", {"city": "Cusco"}), ("roll", {"sides": 20})]


def test_a_tool_that_takes_long_is_late(stage: Machine) -> None:
    async def main() -> None:
        await lip.call_tool("roll", timeout_s=1.5)

    with pytest.raises(lip.TimedOut, match=r"roll was not done in 1\.5 s"):
        run(stage, main)
    assert stage.now_s == pytest.approx(1.5, abs=0.1)


def test_a_cancelled_call_is_over_at_once(stage: Machine) -> None:
    async def main() -> float:
        async with lip.group() as g:
            thread = g.start(lip.call_tool, "roll")
            await lip.sleep(0.5)
            thread.cancel()
        return await lip.monotonic()

    assert run(stage, main) == pytest.approx(0.5, abs=0.1)
    assert stage.props.calls == []


def asked(*calls: tuple[str, Any]) -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"id": str(i), "name": n, "arguments": a} for i, (n, a) in enumerate(calls)]}


def test_parsed_calls_run_at_once_and_become_messages_in_their_order(stage: Machine) -> None:
    async def main() -> Any:
        text = '<tool_call>{"name": "roll", "arguments": {"sides": 8}}</tool_call>'
        text += '<tool_call>{"name": "weather", "arguments": {"city": "Lima"}}</tool_call> one moment'
        found = await lip.parse_tools(text)
        request = lip.tool_request(found)
        replies = await lip.run_tools(found)
        await lip.render_chat([{"role": "user", "content": "go"}, request, *replies])
        return request, replies

    request, replies = run(stage, main)

    assert request["content"] == "one moment"
    assert [c["function"] for c in request["tool_calls"]] == [
        {"name": "roll", "arguments": {"sides": 8}},
        {"name": "weather", "arguments": {"city": "Lima"}},
    ]
    assert [(m["role"], m["name"], m["content"]) for m in replies] == [
        ("tool", "roll", '{"value": 8}'),
        ("tool", "weather", "sunny in Lima"),
    ]
    assert [m["tool_call_id"] for m in replies] == [c["id"] for c in request["tool_calls"]]
    assert stage.now_s < 3


def test_what_a_model_can_mend_is_told_to_it(stage: Machine) -> None:
    def explode() -> str:
        raise ValueError("no such city")

    stage.tool("explode", explode)

    async def main() -> Any:
        found = asked(
            ("none", "{}"), ("weather", '{"town": 1}'), ("weather", "not json"), ("broken", "[]"), ("broken", {}), ("explode", {})
        )
        return [m["content"] for m in await lip.run_tools(found)]

    assert run(stage, main) == [
        "error: no such tool: none",
        "error: arguments: missing a required argument: 'city'",
        "error: the arguments are no JSON object: not json",
        "error: the arguments are no JSON object: []",
        "error: no connection",
        "error: ValueError: no such city",
    ]


def test_what_is_the_programs_own_to_deal_with_ends_the_others(stage: Machine) -> None:
    stage.fail("call_tool", lip.QuotaExceeded("tool_calls: 1 of 1 used"), nth=2)

    async def main() -> None:
        await lip.run_tools(asked(("roll", {}), ("weather", {"city": "Lima"})))

    with pytest.raises(lip.QuotaExceeded):
        run(stage, main)
    assert stage.props.calls == []
    assert stage.now_s < 1


def test_a_thread_that_waits_for_a_tool_leaves_its_pages_to_others() -> None:
    async def holder() -> int:
        async with lip.open(tokens=list(range(1, 65))) as file:
            await file.forward()
            await lip.call_tool("roll")
            return len(await file.forward(1) and file)

    async def other() -> None:
        async with lip.open(tokens=list(range(100, 200))) as file:
            await file.forward()

    with Machine(num_pages=9, page_size=16) as m:
        m.tool("roll", "6", takes_s=60.0)
        first = m.start(holder)
        m.run_until(lambda: any("call_tool" in p.waiting for p in m.ps()))
        inode = next(iter(m.kernel.files.inodes.values()))
        assert m.core.residency(inode.ino).device_pages == 4 and inode.writer is None and not inode.readers

        second = m.start(other)
        m.run_until(lambda: second.has_ended)

        assert second.status is not None and second.status.code == 0 and m.now_s < 30
        assert m.core.residency(inode.ino).device_pages < 4
        m.run()
        assert first.value == 65
