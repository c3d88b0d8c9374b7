"""tools and call_tool, with a tool host that the test plays."""

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import JobId, Pid, ToolInfo
from vllm_symphony.kernel import effect as e

TABLE = tuple(ToolInfo(name, "", "{}") for name in ("roll", "notes_read", "notes_write"))


@pytest.fixture
def w() -> World:
    world = World()
    world.kernel.tool_table = lambda _: TABLE
    world.kernel.granted_tools = lambda principal: ("notes_*", "roll") if principal == "me" else ()
    return world


def names(w: World, by: int) -> list[str]:
    return [tool.name for tool in w("tools", by=by).tools]


def jobs(w: World) -> list[e.ToolJob]:
    return w.sent(e.ToolJob)


def test_a_program_has_no_tools_unless_they_are_given(w: World) -> None:
    pid = w.program()

    assert names(w, pid) == []
    with pytest.raises(errors.NoSuchFile, match=r"no such tool: roll \(0 are granted here\)"):
        w("call_tool", by=pid, name="roll")
    assert jobs(w) == []


def test_what_is_given_is_cut_down_by_what_the_giver_has(w: World) -> None:
    parent = w.program(tools=("notes_*", "secret"))
    child = w.program(parent=parent, tools=("roll", "notes_read"))

    assert names(w, parent) == ["notes_read", "notes_write"]
    assert names(w, child) == ["notes_read"]
    with pytest.raises(errors.NoSuchFile):
        w("call_tool", by=child, name="secret")


def test_a_child_has_its_parents_tools_unless_told(w: World) -> None:
    parent = w.program(tools=("notes_*",))

    assert names(w, w.program(parent=parent)) == names(w, parent)
    assert names(w, w.program(parent=parent, tools=())) == []


def test_a_principal_that_the_operator_gives_nothing_has_nothing(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)

    assert names(w, other) == []
    assert names(w, w("spawn", by=other, source="x", tools=("*",)).pid) == []


def test_a_tool_that_the_table_does_not_know_is_the_tool_hosts_to_refuse(w: World) -> None:
    w.start("call_tool", name="notes_new")

    assert jobs(w)[0].name == "notes_new"


def test_the_answer_of_the_tool_host_is_the_callers(w: World) -> None:
    pid = w.program(tools=("*",))
    call = w.start("call_tool", by=pid, name="roll", args='{"sides": 6}', timeout_s=2.0)
    job = jobs(w)[0]

    assert (job.principal, job.pid, job.name, job.args, job.timeout_s) == ("me", pid, "roll", '{"sides": 6}', 2.0)
    w.now_ns += 250_000_000
    w.complete(e.ToolDone(job.job, ToolResult("4")))

    assert w.result(call, pid) == ToolResult("4")
    usage = w("ps", pid=pid).processes[0].usage
    assert (usage.num_tools, usage.tool_s) == (1, 0.25)
    assert w.sent(e.CancelTool) == []
    w.check()


def test_a_failure_of_the_tool_host_is_a_typed_error(w: World) -> None:
    call = w.start("call_tool", name="roll")

    w.complete(e.JobFailed(jobs(w)[0].job, errors.BrokenPipe("the tool host died")))

    with pytest.raises(errors.BrokenPipe):
        w.result(call)


def test_why_says_tool_and_nothing_of_the_file_is_held_meanwhile(w: World) -> None:
    pid = w.program(tools=("*",))
    w.file([1, 2, 3], by=pid)
    w.start("call_tool", by=pid, name="roll")

    waits = w("why", pid=pid).threads

    assert [(t.op, t.cause, t.detail) for t in waits] == [("call_tool", "tool", "roll")]
    inode = next(iter(w.kernel.files.inodes.values()))
    assert inode.writer is None and not inode.readers and w.sent(e.PinFile) == []
    assert w.kernel.jobs == {}


def test_a_cancelled_call_is_answered_at_once_and_the_late_answer_is_passed_over(w: World) -> None:
    call = w.start("call_tool", name="roll")
    w("cancel", target=call)
    job = jobs(w)[0].job

    assert w.sent(e.CancelTool) == [e.CancelTool(job)]
    with pytest.raises(errors.Interrupted):
        w.result(call)
    w.complete(e.ToolDone(job, ToolResult("late")))
    w.disconnect()
    w.assert_empty()


def test_a_tool_host_that_keeps_no_time_limit_does_not_keep_the_caller(w: World) -> None:
    call = w.start("call_tool", name="roll", timeout_s=1.0)

    w.pass_time(1.4)
    assert w.is_open(call)
    w.pass_time(0.2)

    with pytest.raises(errors.TimedOut, match=r"roll was not done in 1 s"):
        w.result(call)
    assert len(w.sent(e.CancelTool)) == 1


def test_the_end_of_a_program_ends_its_tool(w: World) -> None:
    pid = w.program(tools=("*",))
    w.start("call_tool", by=pid, name="roll")

    w("kill", pid=pid, signal="KILL")
    w.exited(pid, 137)

    assert w.sent(e.CancelTool) == [e.CancelTool(JobId(jobs(w)[0].job))]
    w.check()


def test_so_many_tools_at_once_and_no_more() -> None:
    w = World(tool_calls=2)
    w.kernel.granted_tools = lambda _: ("*",)
    w.start("call_tool", name="a")
    w.start("call_tool", name="b")

    with pytest.raises(errors.WouldBlock):
        w("call_tool", name="c")
    with pytest.raises(errors.InvalidArgument):
        w("call_tool", name="d" * 129)


def test_a_server_without_tools_says_how_to_have_some() -> None:
    w = World()

    assert w("tools").tools == ()
    with pytest.raises(errors.NotSupported, match="--tools"):
        w("call_tool", name="a")


def test_the_operators_word_is_about_whom_an_edge_calls_for(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)
    calls = {cred.principal: w.start("tools", by=edge, cred=cred) for cred in (ME, OTHER)}

    assert [len(w.result(calls[name], Pid(edge)).tools) for name in ("me", "other")] == [3, 0]
