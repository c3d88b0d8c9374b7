import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony.edge.rate import MAX_BUCKETS, Limit, Rates, _Bucket, limit_of, limits_of
from vllm_symphony.errors import InvalidArgument, QuotaExceeded


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rates(clock: Clock, *flags: str, calls: tuple[str, ...] = ()) -> Rates:
    return Rates(limits_of(flags, calls), clock=clock)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("20/s", Limit(20, 20)),
        ("20/s:40", Limit(20, 40)),
        ("90/m", Limit(1.5, 2)),
        ("1/h", Limit(1 / 3600, 1)),
        ("0.5/s", Limit(0.5, 1)),
    ],
)
def test_a_rate_reads_as_it_is_written(text, limit):
    assert limit_of(text) == limit
    assert limit_of(str(limit)).burst == limit.burst


@pytest.mark.parametrize(
    "text", ["", "20", "20/d", "/s", "x/s", "0/s", "-1/s", "nan/s", "inf/s", "1e9/s", "20/s:0", "20/s:x", "20/s:-1"]
)
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(InvalidArgument, match="no rate"):
        limit_of(text)


@pytest.mark.parametrize(("rate", "call"), [("20/s", "a=1"), ("=20/s", "a=1"), ("a=1/s", "a=x"), ("a=1/s", "a=0"), ("a=1/s", "5")])
def test_what_is_no_limit_of_a_name_is_refused(rate, call):
    with pytest.raises(InvalidArgument):
        limits_of([rate], [call])


def test_without_limits_everything_passes(clock):
    door = rates(clock)

    for _ in range(1000):
        door.admit("alice")
    with door.at_once("alice"):
        pass
    assert not door.num_refused
    door.check()


def test_a_burst_passes_then_one_each_interval_and_the_error_says_when(clock):
    door = rates(clock, "*=10/s:3")
    for _ in range(3):
        door.admit("alice")

    with pytest.raises(QuotaExceeded, match="alice asks faster than 10 requests a second") as refused:
        door.admit("alice")
    assert refused.value.retry_after_s == pytest.approx(0.1)
    assert (refused.value.reason, refused.value.http_code, refused.value.grpc_code) == ("EDQUOT", 429, "RESOURCE_EXHAUSTED")
    clock.now_s += 0.0999
    with pytest.raises(QuotaExceeded):
        door.admit("alice")
    clock.now_s += 0.0002
    door.admit("alice")
    door.admit("bob")
    assert door.num_refused == 2


def test_a_name_has_its_own_limits_and_for_what_it_does_not_say_those_of_everybody(clock):
    door = rates(clock, "*=1/s", "ops=5/s", calls=("*=1", "batch=2"))

    for _ in range(5):
        door.admit("ops")
    door.admit("batch")
    with pytest.raises(QuotaExceeded):
        door.admit("batch")
    with door.at_once("ops"), pytest.raises(QuotaExceeded, match="1 requests of ops are being answered"), door.at_once("ops"):
        pass
    with door.at_once("batch"), door.at_once("batch"):
        door.check()
    with door.at_once("ops"):
        door.check()


def test_a_token_and_its_principal_are_both_counted_and_a_refusal_takes_nothing(clock):
    door, slow = rates(clock, "*=10/s:10"), ("4f1c", Limit(1, 1))
    door.admit("alice", token=slow)

    for _ in range(100):
        with pytest.raises(QuotaExceeded, match="faster than 1 requests"):
            door.admit("alice", token=slow)
    for _ in range(9):
        door.admit("alice")
    with pytest.raises(QuotaExceeded, match="faster than 10 requests"):
        door.admit("alice", token=("77aa", Limit(1, 1)))
    clock.now_s += 0.1
    door.admit("alice", token=("77aa", Limit(1, 1)))


def test_what_costs_more_than_a_burst_passes_and_is_paid_for_afterwards(clock):
    door = rates(clock, "*=10/s:5")

    door.admit("alice", 25)
    clock.now_s += 2.0
    with pytest.raises(QuotaExceeded):
        door.admit("alice")
    clock.now_s += 0.2
    door.admit("alice")


def test_buckets_that_are_full_again_are_forgotten(clock):
    door = rates(clock, "*=10/s:5")
    for i in range(MAX_BUCKETS):
        door.admit(f"p{i}")
    clock.now_s += 1.0
    door.admit("p0", 4)

    door.admit("one more")

    assert len(door._buckets) <= 2
    with pytest.raises(QuotaExceeded):
        door.admit("p0", 2)


def test_in_a_flood_of_many_sources_each_pays_for_a_few_looks_only(clock, monkeypatch):
    door, num_looks, wait_s = rates(clock, "*=1/s:20"), 0, _Bucket.wait_s

    def counted(bucket: _Bucket, now_s: float, cost: float) -> float:
        nonlocal num_looks
        num_looks += 1
        return wait_s(bucket, now_s, cost)

    monkeypatch.setattr(_Bucket, "wait_s", counted)
    for i in range(8 * MAX_BUCKETS):
        door.admit(f"p{i}")

    assert num_looks <= 3 * 8 * MAX_BUCKETS


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_no_more_than_burst_and_rate_allow_ever_pass_and_who_waits_as_told_passes(pauses, per_s, burst):
    clock = Clock()
    door, num_passed = Rates({"*": Limit(per_s, burst)}, clock=clock), 0
    for pause_s in pauses:
        clock.now_s += pause_s
        wait_s = None
        while wait_s is None:
            wait_s = refusal(door)
            num_passed += wait_s is None
        clock.now_s += wait_s
        assert refusal(door) is None
        num_passed += 1
        assert 0 < wait_s <= burst / per_s + 1e-9
        assert num_passed <= burst + clock.now_s * per_s + 1e-3
        door.check()


def refusal(door: Rates) -> float | None:
    """How long alice is told to wait; None: she may."""
    try:
        door.admit("alice")
    except QuotaExceeded as e:
        return e.retry_after_s
    return None
