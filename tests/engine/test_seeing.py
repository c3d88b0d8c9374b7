"""What the engine tells of its steps and of its jobs."""

from __future__ import annotations

from itertools import pairwise

from tests.engine.driver import TIMEOUT_S, Driver
from vllm_symphony.kernel.effect import GenerateTokens, StepRan, StepSpan


def span_of(q) -> StepSpan:
    while isinstance(done := q.get(timeout=TIMEOUT_S), GenerateTokens):
        pass
    return done.span


def test_each_step_is_told_once_with_its_time_and_its_work_no_later_than_what_it_answers(dev: Driver) -> None:
    dev.steps.clear()
    f = dev.create(range(10, 30))

    _, q = dev.start_generate(f, 6)
    span = span_of(q)

    steps = {s.step: s for s in dev.steps}
    assert len(steps) == len(dev.steps)
    mine = [steps[n] for n in range(span.first, span.last + 1) if n in steps]
    assert [(s.num_calls, s.num_tokens) for s in mine] == [(1, 20), *[(1, 1)] * 5]
    assert all(s.t_start_ns < s.t_end_ns for s in mine)
    assert all(a.t_end_ns <= b.t_start_ns for a, b in pairwise(mine))
    dev.drop(f)


def test_steps_that_answer_nobody_are_told_together(dev: Driver) -> None:
    """What wakes the kernel's thread is an answer, or many steps without one."""
    told: list[int] = []
    device = dev.host.device
    deliver = device.deliver

    def run() -> None:
        device.deliver = lambda batch: told.append(len(batch))
        for n in range(100):
            device.ran(StepRan(1_000_000 + n, 0, 1, 1, 1))
            device.flush()
        device.deliver = deliver

    dev.call(run)

    assert told == [32, 32, 32]
    dev.forward(f := dev.create([5]), [])
    assert [s.step for s in dev.steps if s.step >= 1_000_000] == [1_000_096, 1_000_097, 1_000_098, 1_000_099]
    dev.drop(f)


def test_a_job_in_the_mailbox_comes_into_the_next_step_and_one_that_ended_is_nowhere(dev: Driver) -> None:
    f = dev.create([5, 6])

    def between_two_steps() -> tuple[tuple[str, str], int]:
        job, _ = dev.start_forward(f, [])
        return dev.host.job_state(job), job

    state, job = dev.call(between_two_steps)
    dev.waiting[job].get(timeout=TIMEOUT_S)

    assert state == ("queue", "it comes into the next step")
    assert dev.host.job_state(job) == ("queue", "")
    dev.drop(f)


def test_a_job_that_runs_is_in_the_batch(dev: Driver) -> None:
    f = dev.create([5, 6])
    job, q = dev.start_generate(f, 40, ignore_eos=True)
    assert isinstance(q.get(timeout=TIMEOUT_S), GenerateTokens)

    cause, detail = dev.call(lambda: dev.host.job_state(job))

    assert cause == "batch" and detail.startswith("in step ")
    span_of(q)
    dev.drop(f)
