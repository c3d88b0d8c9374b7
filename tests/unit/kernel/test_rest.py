"""Which waits the device is told of: each begins and ends once, however it ends, and only of those who may have pages there."""

from __future__ import annotations

import pytest

from tests.unit.kernel.world import World
from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import ToolInfo
from vllm_symphony.kernel import effect as e


@pytest.fixture
def w() -> World:
    world = World()
    world.kernel.tool_table = lambda _: (ToolInfo("roll", "", "{}"),)
    world.kernel.granted_tools = lambda _: ("roll",)
    return world


def rests(w: World) -> list[tuple[str, str]]:
    """What is waited for now; what began and what ended agree."""
    open_: dict[tuple[int, int], tuple[str, str]] = {}
    for effect in w.effects:
        if isinstance(effect, e.Rests):
            assert (effect.pid, effect.call) not in open_
            open_[effect.pid, effect.call] = (effect.why, effect.name)
        elif isinstance(effect, e.Resumes):
            del open_[effect.pid, effect.call]
    return list(open_.values())


def test_a_thread_rests_from_the_call_of_a_tool_to_its_answer(w: World) -> None:
    pid = w.program(tools=("roll",))
    w.file(by=pid)

    w.start("call_tool", by=pid, name="roll")
    assert rests(w) == [("tool", "roll")]
    w.complete(e.ToolDone(w.sent(e.ToolJob)[-1].job, ToolResult("6")))

    assert rests(w) == [] and len(w.sent(e.Rests)) == 1


def test_several_waits_of_one_thread_are_told_apart(w: World) -> None:
    w.file()
    w.start("sleep", seconds=1.0)
    w.start("sleep", seconds=3.0)
    assert len(rests(w)) == 2

    w.pass_time(2.0)

    assert rests(w) == [("sleep", "")]
    w.pass_time(2.0)
    assert rests(w) == []


def test_a_wait_for_a_message_or_a_child_is_told(w: World) -> None:
    w.file()
    child = w.program()
    ch = w("channel_open").ch
    w.start("recv", ch=ch)
    w.start("wait", pid=child)
    assert rests(w) == [("message", ""), ("child", "")]

    w("send", ch=ch, data=b"x")
    w.exited(child)

    assert rests(w) == []


def test_a_wait_ends_with_its_cancel_and_with_its_process(w: World) -> None:
    pid = w.program()
    w.file(by=pid)
    call = w.start("sleep", by=pid, seconds=9.0)
    w.start("sleep", by=pid, seconds=9.0)

    w("cancel", by=pid, target=call)
    assert len(rests(w)) == 1
    w.exited(pid)

    assert rests(w) == []
    kinds = [type(x) for x in w.effects]
    assert kinds.index(e.ProcessEnded) > max(i for i, kind in enumerate(kinds) if kind is e.Resumes)


def test_who_has_no_file_holds_no_pages_and_nobody_is_told(w: World) -> None:
    w.start("sleep", seconds=1.0)
    w.pass_time(2.0)

    assert not w.sent(e.Rests) and not w.sent(e.Resumes)


def test_what_is_answered_at_once_is_no_rest(w: World) -> None:
    w.file()
    w("sleep", seconds=0.0)

    assert not w.sent(e.Rests)
