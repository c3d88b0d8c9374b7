"""Which failures are tried again, how often, and when it is too late."""

import asyncio
import random

import grpc
import pytest
from google.rpc.status_pb2 import Status

from vllm_symphony.client import Retry, ServerUnreachable
from vllm_symphony.client.call import Caller
from vllm_symphony.errors import (
    AccessDenied,
    DeviceLost,
    FileBusy,
    InvalidArgument,
    OutOfPages,
    QuotaExceeded,
    SymphonyError,
    TimedOut,
    WouldBlock,
)
from vllm_symphony.proto.status import TRAILER, to_status

FAST = Retry(tries=4, first_s=0.001, most_s=0.001, reconnect_s=0.05)


def rpc_error(error):
    """What gRPC raises for it: ours with its trailer, or a broken connection."""
    if error is None:
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "Socket closed")
    status: Status = to_status(error)
    trailer = grpc.aio.Metadata((TRAILER, status.SerializeToString()))
    return grpc.aio.AioRpcError(getattr(grpc.StatusCode, error.grpc_code), grpc.aio.Metadata(), trailer, error.message)


class Method:
    """Fails as told, then answers; keeps the deadlines that it was given."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.timeouts = []

    async def __call__(self, request, timeout=None):
        self.timeouts.append(timeout)
        outcome = self.outcomes.pop(0) if self.outcomes else "answer"
        if outcome == "answer":
            return outcome
        raise rpc_error(outcome)


def ask(method, *, retry=FAST, reached=True, **how):
    async def main():
        caller = Caller("there", retry)
        if reached:
            await caller.ask(Method(), None)
        return await caller.ask(method, None, **how)

    return asyncio.run(main())


@pytest.mark.parametrize("error", [WouldBlock("full"), FileBusy("written"), OutOfPages("none left"),
                                   QuotaExceeded("too fast", retry_after_s=0.001), None])  # fmt: skip
def test_what_waiting_may_help_is_tried_again(error):
    method = Method(error, error)

    assert ask(method) == "answer"
    assert len(method.timeouts) == 3


@pytest.mark.parametrize("error", [InvalidArgument("bad"), AccessDenied("no"), DeviceLost("gone"), TimedOut("late"),
                                   QuotaExceeded("no more files"), WouldBlock("come tomorrow", retry_after_s=86400.0)])  # fmt: skip
def test_everything_else_is_raised_at_once(error):
    method = Method(error)

    with pytest.raises(type(error)):
        ask(method)
    assert len(method.timeouts) == 1


@pytest.mark.parametrize(("error", "raised"), [(WouldBlock("full"), WouldBlock), (None, ServerUnreachable)])
def test_tries_are_counted(error, raised):
    method = Method(*[error] * 9)

    with pytest.raises(raised):
        ask(method)
    assert len(method.timeouts) == 4
    once = Method(error)
    with pytest.raises(raised):
        ask(once, retry=Retry(tries=1))
    assert len(once.timeouts) == 1


def test_a_server_that_was_never_reached_is_not_waited_for():
    method = Method(None)

    with pytest.raises(ServerUnreachable):
        ask(method, reached=False)
    assert len(method.timeouts) == 1
    assert ask(Method(WouldBlock("starting"), None), reached=False) == "answer"  # a typed error is a server's


def test_the_server_says_how_long_to_wait():
    async def main():
        loop = asyncio.get_running_loop()
        began = loop.time()
        await Caller("there", FAST).ask(Method(WouldBlock("full", retry_after_s=0.05)), None)
        return loop.time() - began

    assert asyncio.run(main()) >= 0.05


def test_what_the_server_asks_for_is_waited_and_up_to_a_quarter_more():
    rng, asked = random.Random(3), WouldBlock("full", retry_after_s=2.0)
    waits = [Retry.wait_s(0.1, asked, rng) for _ in range(200)]

    assert 2.0 <= min(waits) < 2.1 and 2.4 < max(waits) <= 2.5
    assert Retry.wait_s(3.0, asked, rng) == 3.0
    assert Retry.wait_s(0.1, ServerUnreachable("there", "gone"), rng) == 0.1


def test_a_deadline_is_shared_by_all_tries_and_ends_them():
    method = Method(WouldBlock("full", retry_after_s=0.01))
    assert ask(method, timeout_s=60.0) == "answer"
    assert 60.0 >= method.timeouts[0] > method.timeouts[1] > 50.0

    late = Method(WouldBlock("full", retry_after_s=30.0))
    with pytest.raises(WouldBlock):
        ask(late, timeout_s=10.0)
    assert len(late.timeouts) == 1


def test_a_call_that_waits_long_is_tried_by_time_and_not_by_number():
    method = Method(*[None] * 10)

    assert ask(method, patient=True) == "answer"
    with pytest.raises(ServerUnreachable):
        ask(Method(*[None] * 1000), patient=True)


def test_waits_double_up_to_the_longest_and_half_of_each_is_chance():
    waits = Retry(first_s=0.1, most_s=1.0).waits(random.Random(1))

    for longest in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert longest / 2 <= next(waits) <= longest


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"first_s": 0.0}, {"first_s": 3.0}, {"most_s": 0.01}])
def test_a_retry_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidArgument, match="retry needs"):
        Retry(**wrong)


def test_how_long_streams_look_for_a_lost_server_is_given_or_a_setting(monkeypatch):
    monkeypatch.delenv("SYMPHONY_RECONNECT_S", raising=False)
    assert (Retry().patience_s, Retry(reconnect_s=3.0).patience_s) == (30.0, 3.0)
    monkeypatch.setenv("SYMPHONY_RECONNECT_S", "1.5")
    assert (Retry().patience_s, Retry(reconnect_s=3.0).patience_s) == (1.5, 3.0)
    monkeypatch.setenv("SYMPHONY_RECONNECT_S", "soon")
    with pytest.raises(SymphonyError, match="must be seconds, not 'soon'"):
        _ = Retry().patience_s
