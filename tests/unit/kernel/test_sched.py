"""getsched, setsched, setweight: who decides who computes, where that comes from, and what outlives the server."""

import pytest

from tests.unit.kernel.world import ADMIN, ME, World
from vllm_symphony import errors
from vllm_symphony.abi.record import PolicyRecord, Restored, WeightRecord
from vllm_symphony.abi.types import Pid, PrincipalStat
from vllm_symphony.kernel.effect import SetPolicy, StoreWrite, Weigh
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.kernel.sched.view import QueueView, Standing


@pytest.fixture
def w() -> World:
    """`pid` is an admin's client."""
    world = World()
    world.pid = world.kernel.connect(ADMIN, "client", 0)
    return world


def policy(w: World, level: str) -> tuple[str, dict[str, float], str]:
    (found,) = (p for p in w("getsched").policies if p.level == level)
    return found.policy, found.parameters, found.source


def kept(w: World) -> tuple[list[PolicyRecord], list[WeightRecord]]:
    writes = w.sent(StoreWrite)
    return [p for e in writes for p in e.policies], [r for e in writes for r in e.weights]


def test_each_level_begins_with_its_default(w: World) -> None:
    for level, name in catalogue.DEFAULTS.items():
        assert policy(w, level) == (name, catalogue.values(level, name, {}), "default")


def test_what_is_set_goes_before_a_flag_and_that_before_the_default(w: World) -> None:
    w.kernel.set_policy("process", "vtc")
    assert policy(w, "process") == ("vtc", {}, "flag")

    w("setsched", level="process", policy="plas", parameters={"quantum": 64.0})
    assert policy(w, "process") == ("plas", {"quantum": 64.0, "patience": 16.0}, "set")

    w("setsched", level="process")
    assert policy(w, "process") == ("vtc", {}, "flag")
    assert [(e.name, e.parameters) for e in w.sent(SetPolicy)] == [("vtc", ()), ("plas", (("quantum", 64.0),)), ("vtc", ())]


def test_info_tells_who_decides_and_where_that_comes_from(w: World) -> None:
    w("setsched", level="memory", policy="ttl")

    assert '"memory": {"policy": "ttl", "from": "set", "parameters": {"cold": 100}}' in w("info").json


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"level": "process", "policy": "best"}, errors.InvalidArgument),
        ({"level": "none", "policy": "fcfs"}, errors.InvalidArgument),
        ({"level": "none"}, errors.InvalidArgument),
        ({"level": "process", "policy": "plas", "parameters": {"quantum": 0.0}}, errors.InvalidArgument),
        ({"level": "process", "parameters": {"quantum": 64.0}}, errors.InvalidArgument),
        ({"level": "batch", "policy": "rate"}, errors.NotSupported),
    ],
)
def test_what_is_no_policy_changes_nothing(w: World, args: dict, error: type[errors.SymphonyError]) -> None:
    with pytest.raises(error):
        w("setsched", **args)

    assert not w.sent(SetPolicy) and policy(w, "process")[2] == "default"


def test_a_weight_and_a_cap_are_set_one_by_one(w: World) -> None:
    w("setweight", principal="ann", weight=2.0)
    w("setweight", principal="ann", cap=3)
    w("setweight", principal="ann", weight=4.0)
    w("setweight", principal="ann", cap=-1)

    assert w.sent(Weigh) == [Weigh("ann", 2.0), Weigh("ann", 2.0, 3), Weigh("ann", 4.0, 3), Weigh("ann", 4.0)]
    assert PrincipalStat("ann", 4.0) in w("getsched").principals


@pytest.mark.parametrize(
    "args", [{"weight": 0.0}, {"weight": float("nan")}, {"cap": 0}, {"principal": ""}, {"principal": "x" * 256}]
)
def test_what_is_no_weight_or_cap_of_somebody_changes_nothing(w: World, args: dict) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("setweight", **{"principal": "ann", **args})

    assert not w.sent(Weigh)


def test_who_is_no_admin_sees_its_own_part_and_what_waits_in_all(w: World) -> None:
    me = w.kernel.connect(ME, "client", 0)
    w.kernel.queue_view = lambda: QueueView(principals={"me": Standing(2, 1, 3.0), "ann": Standing(5, 4, 6.0)})

    seen = w("getsched", by=me)

    assert seen.principals == (PrincipalStat("me", num_running=1, num_queued=2, service=3.0),)
    assert (seen.num_running, seen.num_queued) == (5, 7)
    with pytest.raises(errors.NotOwner):
        w("setsched", by=me, level="process", policy="fcfs")
    with pytest.raises(errors.NotOwner):
        w("setweight", by=me, principal="me", weight=9.0)


def test_ps_tells_of_calls_before_the_device(w: World) -> None:
    pid = w.program()
    w.kernel.queue_view = lambda: QueueView(processes={Pid(pid): Standing(2, 1, 30.0)})

    (stat,) = (p for p in w("ps").processes if p.pid == pid)

    assert (stat.num_running, stat.num_queued, stat.service) == (1, 2, 30.0)


def test_what_is_set_is_kept_and_the_next_server_begins_with_it(w: World) -> None:
    w.kernel.restore(Restored(), 0)
    w("setsched", level="process", policy="plas", parameters={"quantum": 64.0})
    w("setweight", principal="ann", weight=2.0, cap=3)
    policies, weights = kept(w)

    w = World()
    w.pid = w.kernel.connect(ADMIN, "client", 0)
    w.kernel.restore(Restored(policies=tuple(policies), weights=tuple(weights)), 0)
    w.drain()

    assert policy(w, "process") == ("plas", {"quantum": 64.0, "patience": 16.0}, "set")
    assert w.sent(SetPolicy) == [SetPolicy("process", "plas", (("quantum", 64.0),))]
    assert w.sent(Weigh) == [Weigh("ann", 2.0, 3)]


def test_a_flag_of_this_start_goes_before_what_was_kept(w: World) -> None:
    w.kernel.set_policy("process", "vtc")
    w.kernel.restore(Restored(policies=(PolicyRecord("process", "plas"), PolicyRecord("memory", "lru"))), 0)

    assert policy(w, "process") == ("vtc", {}, "flag")
    assert policy(w, "memory") == ("lru", {"stale_s": 1.0}, "set")


def test_what_another_version_kept_is_passed_over(w: World) -> None:
    records = PolicyRecord("process", "newest"), PolicyRecord("space", "fcfs"), PolicyRecord("memory", "ttl", {"hot": 1.0})
    w.kernel.restore(Restored(policies=records), 0)

    assert policy(w, "process")[2] == policy(w, "memory")[2] == "default"
    assert w.kernel.sched.unknown == list(records), "so that the host can say so"


def test_a_policy_that_is_taken_back_is_not_kept(w: World) -> None:
    w.kernel.restore(Restored(), 0)
    w("setsched", level="process", policy="fcfs")
    w("setsched", level="process")

    assert kept(w)[0] == [PolicyRecord("process", "fcfs"), PolicyRecord("process")]


def test_without_a_store_nothing_is_written(w: World) -> None:
    w("setsched", level="process", policy="fcfs")
    w("setweight", principal="ann", weight=2.0)

    assert kept(w) == ([], [])


def test_metrics_tell_of_the_queue_and_of_who_decides_and_name_nobody(w: World) -> None:
    w.kernel.queue_view = lambda: QueueView(principals={"me": Standing(2, 1, 30.0), "ann": Standing(5, 0, 6.0)})
    w("setsched", level="process", policy="plas")

    found = {(s.name.removeprefix("symphony:"), *s.labels.values()): s.value for s in w("metrics").samples}

    assert (found["run_queue", "running"], found["run_queue", "waiting"]) == (1, 7)
    assert (found["run_queue_principals", "running"], found["run_queue_principals", "waiting"]) == (1, 2)
    assert found["service_tokens_total",] == 36
    assert [key[1:] for key in found if key[0] == "sched_policy"] == [
        ("process", "plas"), ("memory", catalogue.DEFAULTS["memory"]), ("batch", catalogue.DEFAULTS["batch"]),
    ]  # fmt: skip
    assert not any("ann" in key for key in found)
