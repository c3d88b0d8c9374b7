"""`metrics`: what the kernel counts is what happened, and every number is one of the registry."""

import pytest

from tests.unit.kernel.world import ADMIN, ME, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Metrics
from vllm_symphony.abi.types import MetricSample, ResourceLimits
from vllm_symphony.trace.metrics import SAMPLES

REFUSED = MetricSample("symphony:refused_total", 3.0, {"door": "grpc", "reason": "rate"})


@pytest.fixture
def admin(w: World) -> int:
    return w.kernel.connect(ADMIN, "client", w.now_ns)


def numbers(w: World, by: int) -> dict[tuple[str, ...], float]:
    """By name and the values of labels."""
    return {(s.name, *s.labels.values()): s.value for s in w("metrics", by=by).samples}


def edge(w: World, *reported: MetricSample) -> int:
    pid = w.kernel.connect(ADMIN, "edge", w.now_ns)
    w.result(w.start("metrics", by=pid, cred=ADMIN, reported=reported), pid)
    return pid


def test_calls_are_counted_by_their_results(w: World, admin: int) -> None:
    fd = w.file([1, 2])
    for wrong in (0, 1):
        with pytest.raises(errors.NoSuchFile):
            w("open", path=f"/none/{wrong}")
    w("close", fd=fd)

    found = numbers(w, admin)

    assert found["symphony:calls_total", "open", "ok"] == 1
    assert found["symphony:calls_total", "open", "ENOENT"] == 2
    assert found["symphony:calls_total", "close", "ok"] == 1
    assert found["symphony:call_seconds_count", "control"] == 4


def test_what_is_no_call_makes_no_series_of_its_own(w: World, admin: int) -> None:
    for call_id, name in ((900, "x" * 30), (901, "rm -rf /")):
        w.kernel.reject(w.pid, call_id, 0, name, errors.NoSuchCall(f"no such call: {name}"), w.now_ns)
        w.drain()

    assert numbers(w, admin)["symphony:calls_total", "other", "ENOSYS"] == 2


def test_how_long_a_call_took_is_the_kernels_own_time(w: World, admin: int) -> None:
    w.start("sleep", seconds=2.0)
    w.pass_time(2)

    found = numbers(w, admin)

    assert found["symphony:call_seconds_bucket", "wait", "1.0"] == 0
    assert found["symphony:call_seconds_bucket", "wait", "5.0"] == 1
    assert found["symphony:call_seconds_sum", "wait"] == pytest.approx(2.0)


def test_processes_are_counted_as_they_begin_are_there_and_end(w: World, admin: int) -> None:
    w.program()
    gone, stopped = w.program(), w.program()
    w.exited(gone, 1)
    w("kill", pid=stopped, signal="STOP")

    found = numbers(w, admin)

    assert found["symphony:processes_started_total", "program"] == found["symphony:launches_total", "python"] == 3
    assert found["symphony:processes_ended_total", "program", "exception"] == 1
    assert [found["symphony:processes", "program", state] for state in ("starting", "running", "stopped")] == [0, 1, 1]
    assert found["symphony:process_start_seconds_count",] == 3


def test_tokens_are_counted_by_how_they_came(w: World, admin: int) -> None:
    fd = w.file([1, 2, 3])
    w.start("generate", fd=fd, max_tokens=2)
    w.deliver([7, 8])

    found = numbers(w, admin)

    assert found["symphony:tokens_total", "forwarded"] == 3
    assert found["symphony:tokens_total", "generated"] == 2
    assert found["symphony:tokens_total", "sampled"] == 0


def test_a_limit_that_refused_is_counted_by_its_kind(w: World, admin: int) -> None:
    pid = w.program(limits=ResourceLimits(tokens=2))
    with pytest.raises(errors.QuotaExceeded):
        w("open", by=pid, tokens=b"\1\0\0\0" * 5, flags=16 | 1)

    assert numbers(w, admin)["symphony:limits_hit_total", "tokens"] == 1


def test_sessions_are_connected_or_away(w: World, admin: int) -> None:
    here, away = (w.kernel.connect(ME, "client", w.now_ns, lease_s=60.0) for _ in range(2))
    w.disconnect(away)

    found = numbers(w, admin)

    assert (found["symphony:sessions", "connected"], found["symphony:sessions", "away"]) == (1, 1)
    for pid in (here, away):
        w.kernel.end_session(pid, "the test is over", w.now_ns)


def test_every_number_is_one_of_the_registry(w: World, admin: int) -> None:
    w.program()
    edge(w, REFUSED)

    for sample in w("metrics", by=admin).samples:
        assert SAMPLES[sample.name].knows(sample), sample


def test_the_host_adds_its_own(w: World, admin: int) -> None:
    w.kernel.host_samples = lambda: [MetricSample("symphony:engine_steps_total", 7.0)]

    assert numbers(w, admin)["symphony:engine_steps_total",] == 7


def test_what_edges_report_is_added_up_until_they_are_gone(w: World, admin: int) -> None:
    one = edge(w, REFUSED)
    edge(w, REFUSED)
    w.result(w.start("metrics", by=one, cred=ADMIN, reported=(REFUSED,)), one)
    both = numbers(w, admin)

    w.disconnect(one)

    assert both["symphony:refused_total", "grpc", "rate"] == 6
    assert numbers(w, admin)["symphony:refused_total", "grpc", "rate"] == 3


def test_only_an_edge_reports(w: World, admin: int) -> None:
    with pytest.raises(errors.NotOwner, match="only an edge"):
        w("metrics", by=admin, reported=(REFUSED,))


@pytest.mark.parametrize(
    "sample",
    [
        MetricSample("symphony:calls_total", 1.0, {"call": "open", "reason": "ok"}),
        MetricSample("symphony:refused_total", 1.0, {"door": "grpc", "reason": "/home/ann"}),
        MetricSample("symphony:refused_total", 1.0, {"door": "grpc"}),
        MetricSample("symphony:none", 1.0),
    ],
)
def test_an_edge_reports_nothing_but_a_doors_metrics(w: World, sample: MetricSample) -> None:
    with pytest.raises(errors.InvalidArgument, match="no metric of a door"):
        edge(w, sample)


def test_metrics_need_scope_admin(w: World) -> None:
    pid = w.kernel.connect(ME, "client", w.now_ns)

    with pytest.raises(errors.NotOwner, match="scope admin"):
        w("metrics", by=pid)
    assert Metrics().reported == ()
