"""poll: which channels are ready; it takes nothing."""

import pytest

from tests.unit.kernel.post import End, pair
from tests.unit.kernel.world import World
from vllm_symphony import errors


def test_it_tells_all_that_are_ready_and_takes_nothing(w: World) -> None:
    ends = [End(w, "") for _ in range(3)]
    for end in ends[1:]:
        end.send("0")
    chs = tuple(end.ch for end in ends)

    for _ in range(2):
        found = w("poll", receive=chs, send=chs)
        assert (found.receive, found.send) == (chs[1:], chs)

    assert [end.drain() for end in ends] == [[], [b"0"], [b"0"]]


def test_it_waits_for_the_first_message_of_any(w: World) -> None:
    a, b = pair(w)
    other = End(w, "", by=b.pid)
    call = w.start("poll", by=b.pid, receive=(other.ch, b.ch))
    assert b.is_open(call)

    a.send("0")

    assert b.result(call).receive == (b.ch,)
    assert b.drain() == [b"0"]


def test_it_waits_for_room(w: World) -> None:
    a, b = pair(w, capacity=1)
    a.send("0")
    call = w.start("poll", send=(a.ch,))

    b.recv()

    assert w.result(call).send == (a.ch,)


def test_there_is_room_when_a_message_of_any_size_fits() -> None:
    w = World(queue_bytes=10, message_bytes=10)
    a, b = pair(w)
    a.send("1")
    call = w.start("poll", send=(a.ch,))
    assert w.is_open(call)

    b.recv()

    assert w.result(call).send == (a.ch,)
    w.check()


def test_all_who_look_are_told_and_one_gets_it(w: World) -> None:
    a, b = pair(w)
    c = End(w, "post", "r", by=w.program())
    calls = [w.start("poll", by=end.pid, receive=(end.ch,)) for end in (b, c)]

    a.send("0")

    assert [w.result(call, end.pid).receive for call, end in zip(calls, (b, c), strict=True)] == [(b.ch,), (c.ch,)]
    assert b.recv().data == b"0"
    with pytest.raises(errors.WouldBlock):
        c.recv()


def test_a_message_that_another_call_takes_wakes_nobody(w: World) -> None:
    a, b = pair(w)
    recv = b.start_recv()
    call = w.start("poll", by=b.pid, receive=(b.ch,))

    a.send("0")

    assert b.got(recv) == b"0"
    assert b.is_open(call)


def test_at_the_time_limit_nothing_is_ready(w: World) -> None:
    end = End(w, "")
    call = w.start("poll", receive=(end.ch,), timeout_s=2.0)
    w.pass_time(2)

    assert (w.result(call).receive, w.result(call).send) == ((), ())
    assert w("poll", receive=(end.ch,), timeout_s=0.0).receive == ()


def test_what_is_broken_is_ready_for_its_error(w: World) -> None:
    a, b = pair(w, capacity=1)
    w("channel_unlink", name="post")
    receives = w.start("poll", by=b.pid, receive=(b.ch,))
    a.close()
    assert b.result(receives).receive == (b.ch,)

    a, b = pair(w, capacity=1)
    w("channel_unlink", name="post")
    a.send("0")
    sends = w.start("poll", send=(a.ch,))
    w.exited(b.pid)
    assert w.result(sends).send == (a.ch,)


def test_a_cancelled_one_is_forgotten(w: World) -> None:
    end = End(w, "")
    call = w.start("poll", receive=(end.ch,))

    w("cancel", target=call)
    end.send("0")

    with pytest.raises(errors.Interrupted):
        w.result(call)


def test_it_looks_at_open_channels_that_may_be_used_so(w: World) -> None:
    a, b = pair(w)

    for error, by, args in (
        (errors.BadFile, None, {"receive": (99,)}),
        (errors.AccessDenied, None, {"receive": (a.ch,)}),
        (errors.AccessDenied, b.pid, {"send": (b.ch,)}),
        (errors.InvalidArgument, None, {"timeout_s": 1.0}),
        (errors.InvalidArgument, None, {"send": (a.ch,), "timeout_s": -1.0}),
        (errors.InvalidArgument, None, {"send": (a.ch,) * 257}),
    ):
        with pytest.raises(error):
            w("poll", by=by, **args)
