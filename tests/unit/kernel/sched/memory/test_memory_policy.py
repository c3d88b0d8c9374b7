"""Memory policies: what holds of each, whatever the costs, and what each promises of its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.sched import memory
from vllm_symphony.kernel.sched.memory.cost import Costs
from vllm_symphony.kernel.sched.memory.lru import STALE_S
from vllm_symphony.kernel.sched.memory.policy import LONGEST_S, Resident, Rest, Way, reload_s
from vllm_symphony.kernel.sched.memory.prefetch import begins_s
from vllm_symphony.kernel.sched.predict import Predictor

calm = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

ANN = ("ann", "agent")
SECONDS = st.floats(0, 1e4)
COSTS = st.builds(
    Costs, step_s=st.floats(0, 1), token_s=st.floats(0, 0.1), step_tokens=st.integers(1, 8192), host_s=st.floats(0, 1),
    disk_s=st.floats(0, 1), requeue_s=st.floats(0, 100), busy_tokens=st.integers(0, 100_000),
)  # fmt: skip
RESTS = st.builds(Rest, st.sampled_from(("tool", "sleep", "message", "code")), st.sampled_from(("web", "calc")), SECONDS)
FILES = st.builds(
    Resident, num_tokens=st.integers(1, 100_000), num_pages=st.integers(1, 6000), num_missing=st.integers(0, 6000),
    exact=st.booleans(), last_used_s=SECONDS, interval_s=SECONDS, name=st.just(ANN), rest=st.none() | RESTS,
)  # fmt: skip
POLICIES = ("lru", "infercept", "ttl")


def learned(*gaps: float, tool: str = "web", times: int = 1) -> Predictor:
    predictor = Predictor()
    for seconds in gaps * times:
        predictor.rested(ANN, "tool", tool, seconds)
    return predictor


@pytest.mark.parametrize("name", POLICIES)
@calm
@given(r=FILES, costs=COSTS, now_s=SECONDS, gaps=st.lists(st.floats(0, 1e3), max_size=9))
def test_no_file_is_kept_from_younger_calls_for_longer_than_the_most(name, r, costs, now_s, gaps):
    policy = memory.make(name, learned(*gaps))

    assert policy.yields_s(r, costs, now_s) <= r.last_used_s + LONGEST_S


@pytest.mark.parametrize("name", POLICIES)
@calm
@given(r=FILES, costs=COSTS)
def test_a_policy_always_knows_a_way_and_never_drops_what_cannot_be_computed_again(name, r, costs):
    ways = memory.make(name, Predictor()).ways(r, costs)

    assert ways and len(set(ways)) == len(ways)
    assert r.exact or Way.DROP not in ways


@calm
@given(r=FILES, costs=COSTS, now_s=SECONDS, gaps=st.lists(st.floats(0, 1e3), max_size=12))
def test_infercept_keeps_exactly_what_it_is_cheaper_to_keep(r, costs, now_s, gaps):
    predictor = learned(*gaps)
    policy = memory.make("infercept", predictor)
    gone_s = 0.0 if r.rest is None else max(0.0, now_s - r.rest.since_s)
    if r.rest is None:
        away_s = max(now_s - r.last_used_s, r.interval_s)
    elif len(gaps) >= 8 and r.rest.why == "tool" and r.rest.tool == "web":
        longer = [gap for gap in gaps if gap > gone_s]
        away_s = (sum(longer) + 2 * gone_s) / (len(longer) + 1) - gone_s
    else:
        away_s = gone_s
    wastes = [reload_s(r, way, costs) * r.num_tokens for way in (Way.HOST, Way.DISK)]
    if r.exact:
        compute = costs.compute_s(r.num_tokens) * r.num_tokens / 2
        wastes.append(compute + costs.token_s * r.num_tokens * costs.busy_tokens)

    gives = policy.yields_s(r, costs, now_s) <= now_s

    is_unknown = r.rest is None or r.rest.why == "code"
    if is_unknown:
        assert gives == (now_s >= r.last_used_s + STALE_S)
    elif now_s < r.last_used_s + LONGEST_S and abs(away_s * r.num_tokens - min(wastes)) > 1e-6 * (1 + min(wastes)):
        assert gives == (away_s * r.num_tokens > min(wastes))


@calm
@given(r=FILES, costs=COSTS, gaps=st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_ttl_keeps_for_the_time_that_maximises_its_gain(r, costs, gaps):
    predictor = learned(*gaps)
    since_s = r.last_used_s
    r = Resident(r.num_tokens, r.num_pages, r.num_missing, r.exact, since_s, name=ANN, rest=Rest("tool", "web", since_s))
    policy = memory.make("ttl", predictor, {"cold": 1})
    late_s = costs.requeue_s * predictor.turns() + reload_s(r, policy.ways(r, costs)[0], costs)

    def gain(tau: float) -> float:
        return sum(g <= tau for g in gaps) / len(gaps) * late_s - tau

    tau = policy.yields_s(r, costs, since_s) - since_s

    if tau < LONGEST_S - 1e-6:
        best = max(0.0, *map(gain, gaps))
        assert max(gain(tau), gain(tau + 1e-6)) >= best - 1e-5 * (1 + abs(best))


@calm
@given(r=FILES, costs=COSTS, gap_s=st.floats(0, 1e3))
def test_ttl_without_history_wastes_at_most_twice_what_the_best_choice_would(r, costs, gap_s):
    r = Resident(r.num_tokens, r.num_pages, r.num_missing, r.exact, 0.0, name=ANN, rest=Rest("tool", "new", 0.0))
    policy = memory.make("ttl", Predictor())
    late_s = costs.requeue_s + reload_s(r, policy.ways(r, costs)[0], costs)

    tau = policy.yields_s(r, costs, 0.0)
    waste = gap_s if gap_s <= tau else tau + late_s

    assert late_s > LONGEST_S or waste <= 2 * min(gap_s, late_s) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["infercept", "ttl"])
def test_who_waits_for_a_slow_tool_gives_before_who_waits_for_a_fast_one(name):
    predictor = learned(20.0, tool="image", times=120)
    for _ in range(120):
        predictor.rested(ANN, "tool", "calc", 0.001)
    policy, costs = memory.make(name, predictor), Costs(host_s=1e-3)
    image, calc = (Resident(512, 32, 32, True, 10.0, name=ANN, rest=Rest("tool", tool, 10.0)) for tool in ("image", "calc"))

    assert policy.yields_s(image, costs, 10.0) <= 10.0 < policy.yields_s(calc, costs, 10.0)
    assert policy.rank(image, costs, 10.0) < policy.rank(calc, costs, 10.0)


@pytest.mark.parametrize("name", POLICIES)
def test_a_time_that_is_over_lies_in_the_past_whenever_it_is_asked_for(name):
    policy = memory.make(name, learned(20.0, times=120))
    r = Resident(512, 32, 32, True, 10.0, name=ANN, rest=Rest("tool", "web", 10.0))

    assert all(policy.yields_s(r, Costs(), now_s) < 12.0 for now_s in (12.0, 12.1, 15.0))


def test_infercept_keeps_what_is_used_often_longer_than_what_was_used_once():
    policy, costs = memory.make("infercept", Predictor()), Costs()
    often, once = (Resident(512, 32, 0, True, 10.0, interval_s=interval_s) for interval_s in (0.5, 60.0))

    assert policy.rank(once, costs, 12.0) < policy.rank(often, costs, 12.0)


@pytest.mark.parametrize("name", ["infercept", "ttl"])
def test_the_way_follows_what_was_measured(name):
    policy, r = memory.make(name, Predictor()), Resident(512, 32, 32, True, 0.0)

    assert policy.ways(r, Costs(token_s=1e-2, host_s=1e-5))[0] is Way.HOST
    assert policy.ways(r, Costs(step_s=0.0, token_s=1e-6, host_s=1e-1))[0] is Way.DROP


def test_a_fetch_begins_so_that_pages_are_there_when_the_first_tools_return():
    rest = Rest("tool", "web", 100.0)
    predictor = learned(1.0, 2.0, 3.0, 4.0, times=2)

    assert begins_s(ANN, rest, 0.25, predictor, 100.0) == 100.75
    assert begins_s(ANN, rest, 0.25, predictor, 102.5) == 102.75  # of those that took longer than it has by now
    assert begins_s(ANN, rest, 50.0, predictor, 100.0) == 100.0
    assert begins_s(ANN, rest, 0.25, predictor, 105.0) is None
    assert begins_s(ANN, Rest("tool", "new", 100.0), 0.25, predictor, 100.0) is None


@pytest.mark.parametrize(("name", "parameters"), [("best", {}), ("lru", {"cold": 1}), ("ttl", {"cold": -1.0})])
def test_a_policy_that_is_not_there_or_a_parameter_that_it_has_not_is_refused(name, parameters):
    with pytest.raises(InvalidArgument):
        memory.make(name, Predictor(), parameters)


def test_every_policy_takes_the_parameters_that_it_documents():
    for name, policy in memory.POLICIES.items():
        memory.make(name, Predictor(), dict.fromkeys(policy.parameters, 2.0))
