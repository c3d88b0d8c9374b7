"""What one sees of a machine: its steps, what waits for what, a timeline of it all."""

import pytest

from tests.unit.trace.opened import check
from vllm_symphony import lip
from vllm_symphony.abi.calls import PidArgs, Setweight, Strace, StracePart
from vllm_symphony.engine.sim import Cost
from vllm_symphony.testing import Machine, Run
from vllm_symphony.testing.world import EPOCH_NS
from vllm_symphony.trace.timeline import timeline

SECRET = "wolpertinger"


async def write(num_tokens: int, text: str = "Hi") -> int:
    async with lip.open(text=text) as f:
        return len((await f.generate(num_tokens, ignore_eos=True, text=False)).tokens)


async def drafts(n: int) -> int:
    async with lip.open(text=SECRET) as prompt, lip.group() as g:
        await prompt.forward()
        tasks = [g.start(draft, prompt) for _ in range(n)]
    child = await lip.spawn(write, 3)
    return len(tasks) + await child.wait()


async def draft(prompt: lip.File) -> str:
    async with prompt.fork() as f:
        return (await f.generate(4, ignore_eos=True)).text


def strace(m: Machine, **args) -> list[StracePart]:
    parts: list[StracePart] = []
    m.kernel.effects.clear()
    m.kernel.call(m.root, 1 << 40, 0, "strace", Strace(**args), m.now_ns)
    parts += [e.part for e in m.kernel.effects if hasattr(e, "part")]
    m.kernel.effects.clear()
    return parts


def why(m: Machine, run: Run) -> tuple[str, str, str]:
    (wait,) = m.call("why", PidArgs(run.pid)).threads
    return wait.op, wait.cause, wait.detail


def test_every_step_is_told_once_with_its_time_and_its_work():
    with Machine(step_s=0.5) as m:
        m.start(write, 3)
        m.run()
        steps = list(m.kernel.steps)

    assert [(s.step, s.num_calls, s.num_tokens) for s in steps] == [(1, 1, 2), (2, 1, 1), (3, 1, 1)]
    assert [(s.t_start_ns - EPOCH_NS, s.t_end_ns - EPOCH_NS) for s in steps] == [
        (0, 500_000_000), (500_000_000, 1_000_000_000), (1_000_000_000, 1_500_000_000),
    ]  # fmt: skip


def test_the_steps_of_a_call_are_among_those_that_were_told_and_within_its_time():
    with Machine() as m:
        run = m.start(drafts, 3)
        m.run()
        steps = {s.step: s for s in m.kernel.steps}
        records = m.calls(run, "generate") + m.calls(run, "forward")

    assert len(records) == 4
    for r in records:
        assert r.t_start_ns <= steps[r.step_first].t_start_ns and steps[r.step_last].t_end_ns <= r.t_end_ns


def test_a_younger_call_waits_for_pages_and_is_told_how_many_and_who_has_them():
    with Machine(num_pages=4, page_size=4, step_s=1.0) as m:
        older = m.start(write, 14)
        m.advance(11.5)
        younger = m.start(write, 3, text="two pages")
        m.advance(1)

        assert why(m, older)[:2] == ("generate", "batch")
        assert why(m, younger) == ("generate", "pages", f"needs 3 pages, 0 are free; held by process {older.pid} (4)")
        m.kill(younger)
        m.run()


def test_a_call_waits_for_its_turn_when_the_batch_is_full():
    with Machine(cost=Cost(max_rows=1, step_s=1.0)) as m:
        first, second = m.start(write, 5), m.start(write, 5)
        m.advance(0.5)

        assert why(m, first) == ("generate", "batch", "in step 1")
        assert why(m, second) == ("generate", "queue", "calls in the batch: 1")
        m.run()


def test_a_call_waits_for_its_turn_when_its_principal_is_at_its_cap():
    with Machine(cost=Cost(step_s=1.0)) as m:
        m.call("setweight", Setweight("ann", cap=1))
        first, second = m.start(write, 5), m.start(write, 5)
        m.advance(0.5)

        assert why(m, first) == ("generate", "batch", "in step 1")
        assert why(m, second) == ("generate", "queue", "calls in the batch: 1; calls of ann that compute: 1, its cap: 1")
        m.run()


def test_the_timeline_of_a_run_can_be_opened_and_tells_nothing_that_was_said():
    with Machine() as m:
        run = m.start(drafts, 3)
        m.run()
        parts = strace(m, pid=run.pid, children=True, steps=True)

    records, steps = [r for p in parts for r in p.records], [s for p in parts for s in p.steps]
    trace = timeline(records, steps, {run.pid: "drafts"})
    events = check(trace)
    assert {e["pid"] for e in events if e["ph"] == "X" and e["cat"] == "model"} == {r.pid for r in records}
    assert len({r.pid for r in records}) == 2
    assert sum(e["ph"] == "s" for e in events) >= 5
    assert SECRET not in str(trace) + str(parts)


@pytest.mark.parametrize("children", [True, False])
def test_children_are_part_of_a_strace_when_they_are_asked_for(children):
    with Machine() as m:
        run = m.start(drafts, 1)
        m.run()
        parts = strace(m, pid=run.pid, children=children)

    assert len({r.pid for p in parts for r in p.records}) == 1 + children
