"""The player and its device: what happens is exact, repeatable, and the same however the device leaps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.simulate.comparison import Rules
from vllm_symphony.simulate.device import LeapCore
from vllm_symphony.simulate.player import Host, Outcome, Player
from vllm_symphony.simulate.steptime import StepTime
from vllm_symphony.simulate.trace import Gap, Script, Singles, Step, Trace, Turn
from vllm_symphony.simulate.workload import Shape, generate

SMALL = Host(num_pages=64, page_size=4, max_rows=4, max_tokens=32)
FLAT = replace(SMALL, step_time=StepTime(1.0, 0.0, 0.0, 0.0, 0.0))


def trace_of(*scripts: Script) -> Trace:
    return Trace("test", scripts)


def played(trace: Trace, host: Host = SMALL) -> tuple[Outcome, ...]:
    return Player(trace, host, check=True).play().outcomes


turns = st.builds(Turn, st.integers(1, 20), st.integers(1, 12))
gaps = st.builds(Gap, st.sampled_from(["read", "build"]), st.floats(0, 3))
branches = st.builds(Turn, st.integers(0, 6), st.integers(1, 6), st.integers(1, 3))
singles = st.builds(Singles, st.integers(1, 6), st.sampled_from([0.0, 0.001, 0.02]))
later = st.lists(st.one_of(turns, gaps, branches, singles), max_size=4)
prefixes = st.sampled_from([None, ("book", 10), ("film", 24)])


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    steps: list[Step] = [draw(turns), *draw(later)]
    killed_s = draw(st.one_of(st.none(), st.floats(0, 2)))
    return Script(draw(st.floats(0, 1)), "p", tuple(steps), draw(st.sampled_from(["ann", "bob"])), draw(prefixes), killed_s)


traces = st.lists(scripts(), min_size=1, max_size=6).map(lambda found: trace_of(*(s for s in sorted(found, key=lambda s: s.at_s))))


rules = st.builds(Rules, *(st.sampled_from(sorted(catalogue.LEVELS[level])) for level in ("process", "memory", "batch")))
hosts = st.sampled_from([SMALL, replace(SMALL, host_tokens=400), replace(SMALL, num_pages=40)])


@settings(max_examples=30, deadline=None)
@given(traces, hosts, rules)
def test_every_program_ends_and_a_second_play_is_the_same(trace: Trace, host: Host, rules: Rules) -> None:
    first = Player(trace, host, rules.effects, check=True).play()
    second = Player(trace, host, rules.effects).play()

    assert all(o.ended_s is not None for o in first.outcomes)
    assert all(o.failure in ("", "killed") for o in first.outcomes)
    assert first.outcomes == second.outcomes
    assert first.counters == second.counters


@settings(max_examples=30, deadline=None)
@given(traces, hosts, rules)
def test_leaps_change_nothing(trace: Trace, host: Host, rules: Rules) -> None:
    leaping, walking = Player(trace, host, rules.effects), Player(trace, host, rules.effects)
    walking.core.__class__ = Walking

    leapt, walked = leaping.play(), walking.play()

    assert [o.ended_s for o in leapt.outcomes] == pytest.approx([o.ended_s for o in walked.outcomes], abs=1e-5)
    assert leapt.counters["device_steps"] == walked.counters["device_steps"]


class Walking(LeapCore):
    """Each step by itself."""

    def _steps_within(self, load: object, most: int, until_s: float) -> int:
        return 1


def test_a_call_alone_takes_a_step_for_its_prompt_and_one_for_each_further_token() -> None:
    (outcome,) = played(trace_of(Script(0.0, "p", (Turn(20, 5),))), FLAT)

    assert outcome.first_token_s == (1.0,)
    assert outcome.ended_s == pytest.approx(5.0)


def test_a_long_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    (outcome,) = played(trace_of(Script(0.0, "p", (Turn(100, 1),))), FLAT)

    assert outcome.ended_s == pytest.approx(4.0)  # 32 + 32 + 32 + 4


def test_a_gap_takes_its_time_and_the_context_is_still_there() -> None:
    player = Player(trace_of(Script(0.0, "p", (Turn(8, 2), Gap("tool", 7.5), Turn(3, 1)))), FLAT, check=True)

    result = player.play()

    assert result.end_s == pytest.approx(2 + 7.5 + 1)
    assert result.counters["prefilled"] == 8 + 1 + 3  # the last token of the answer was not computed
    assert result.counters["redone"] == 0


def test_branches_run_at_once_and_share_what_stands_before_them() -> None:
    player = Player(trace_of(Script(0.0, "p", (Turn(17, 1), Turn(0, 4, 3)))), FLAT, check=True)

    result = player.play()

    assert result.end_s == pytest.approx(1 + 4)
    assert max(moment.pages_held for moment in result.moments) == 5 + 3 * 2  # four full pages are everybody's
    assert result.counters["pages_held"] == 0


def test_a_prefix_is_computed_once_for_all_that_name_it() -> None:
    scripts = [Script(float(i * 10), "p", (Turn(2, 1),), f"user{i}", ("book", 40)) for i in range(4)]

    result = Player(trace_of(*scripts), SMALL, check=True).play()

    assert result.counters["prefilled"] == 40 + 4 * 2


def test_what_was_given_up_and_is_computed_again_is_counted() -> None:
    waits = Script(0.0, "p", (Turn(100, 1), Gap("tool", 100.0), Turn(1, 1)))
    fills = Script(20.0, "p", (Turn(250, 1),))

    result = Player(trace_of(waits, fills), FLAT, check=True).play()

    assert result.counters["redone"] == 100
    assert not any(o.failure for o in result.outcomes)


def test_a_killed_program_ends_then_and_leaves_nothing() -> None:
    player = Player(trace_of(Script(0.0, "p", (Turn(8, 100),), killed_s=3.5), Script(50.0, "p", (Turn(8, 1),))), FLAT, check=True)

    first, second = player.play().outcomes

    assert first.failure == "killed" and first.ended_s == pytest.approx(3.5)
    assert second.failure == ""


def test_a_call_that_can_never_fit_fails_and_the_others_go_on() -> None:
    first, second = played(trace_of(Script(0.0, "p", (Turn(300, 1),)), Script(1.0, "p", (Turn(8, 2),))), FLAT)

    assert "pages" in first.failure
    assert second.failure == ""


def test_a_stride_delays_calls_by_steps_and_loses_none() -> None:
    trace = generate("agents", Shape(30, 3.0, scale=4))

    exact = Player(trace, Host()).play()
    coarse = Player(trace, Host(stride=4), check=True).play()

    late = [b.completion_s - a.completion_s for a, b in zip(exact.outcomes, coarse.outcomes, strict=True)]
    assert not any(o.failure for o in coarse.outcomes)
    assert coarse.counters["prefilled"] == exact.counters["prefilled"]
    assert max(late) < 9 * 4 * 2 * exact.host.step_time.step_s  # nine calls, a stride each at most for being begun and being ended


def test_a_program_reacts_after_each_call_of_the_model_or_a_tool() -> None:
    trace = trace_of(Script(0.0, "p", (Turn(8, 2), Gap("tool", 1.0), Turn(3, 2))))

    (outcome,) = played(trace, replace(FLAT, reaction_s=0.5))

    assert outcome.ended_s == pytest.approx(2 + 0.5 + 1 + 0.5 + 2 + 0.5)
