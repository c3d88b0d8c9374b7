"""What the device is told of who computes, and by which rules."""

import pytest

from tests.unit.kernel.world import ME, World
from vllm_symphony import errors
from vllm_symphony.kernel.effect import CancelJob, ForwardJob, ProcessBegan, ProcessEnded, SetPolicy, Weigh

MANIFEST = "# /// script\n# [tool.symphony]\n# priority = 7\n# ///\n"


def forward(w: World, pid: int) -> ForwardJob:
    w.start("forward", by=pid, fd=w.file(by=pid), tokens=[1, 2])
    return w.sent(ForwardJob)[-1]


def test_a_job_says_whose_it_is(w: World) -> None:
    pid = w.program(source=MANIFEST, name="agent")

    owner = forward(w, pid).owner

    assert (owner.pid, owner.principal, owner.program, owner.priority) == (pid, "me", "agent", 7)


def test_a_child_is_told_of_with_the_program_that_started_it_and_what_a_client_starts_with_none(w: World) -> None:
    first = w.program(name="agent")
    child = w.program(parent=first)

    began = {e.pid: e.parent for e in w.sent(ProcessBegan)}

    assert began[first] is None and began[child] == first


def test_a_session_begins_and_ends_as_a_program_does(w: World) -> None:
    pid = w.kernel.connect(ME, "client", 0, lease_s=60.0)
    w.drain()

    w.kernel.end_session(pid, "enough", w.now_ns)
    w.drain()

    assert [e.pid for e in w.sent(ProcessBegan)] == [pid]
    assert [e.pid for e in w.sent(ProcessEnded)] == [pid]


def test_the_end_of_a_program_is_told_after_its_jobs_were_cancelled(w: World) -> None:
    pid = w.program()
    job = forward(w, pid)

    w.exited(pid)

    told = [e for e in w.effects if isinstance(e, CancelJob | ProcessEnded)]
    assert told == [CancelJob(job.job), ProcessEnded(pid)]


def test_weights_and_policies_reach_the_device(w: World) -> None:
    w.kernel.weigh("ann", 2.0, 3)
    w.kernel.set_policy("process", "plas", {"quantum": 64.0})
    w.kernel.set_policy("memory", "lru")
    w.drain()

    assert w.sent(Weigh) == [Weigh("ann", 2.0, 3)]
    assert w.sent(SetPolicy) == [SetPolicy("process", "plas", (("quantum", 64.0),)), SetPolicy("memory", "lru", ())]


def test_what_is_no_weight_or_policy_never_reaches_it(w: World) -> None:
    for weight, cap in ((0.0, None), (float("inf"), None), (1.0, 0)):
        with pytest.raises(errors.InvalidArgument):
            w.kernel.weigh("ann", weight, cap)
    for level, name in (("process", "best"), ("memory", "best"), ("batch", "fcfs")):
        with pytest.raises(errors.InvalidArgument):
            w.kernel.set_policy(level, name)

    assert not w.kernel.effects
