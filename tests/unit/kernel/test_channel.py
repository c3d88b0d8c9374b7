"""Queues: order, back-pressure, waiting, and what is left when somebody goes."""

import pytest

from tests.unit.kernel.post import End, client, pair
from tests.unit.kernel.world import OTHER, World
from vllm_symphony import errors


def test_messages_arrive_in_the_order_in_which_they_were_sent(w: World) -> None:
    a, b = pair(w)
    results = [a.send(f"{n}") for n in range(3)]

    messages = [b.recv() for _ in range(3)]

    assert [m.data for m in messages] == [b"0", b"1", b"2"]
    assert [m.seq for m in messages] == [r.seq for r in results] == [1, 2, 3]
    assert {(m.pid, m.principal, m.token, m.missing, m.fds) for m in messages} == {(w.pid, "me", 0, 0, ())}
    assert [r.num_receivers for r in results] == [1, 1, 1]


def test_receivers_are_served_in_the_order_of_asking_each_message_to_one(w: World) -> None:
    a, b = pair(w)
    c = End(w, "post", "r", by=w.program())
    calls = [b.start_recv(), c.start_recv(), b.start_recv()]

    for n in range(4):
        a.send(f"{n}")

    assert [b.got(calls[0]), c.got(calls[1]), b.got(calls[2])] == [b"0", b"1", b"2"]
    assert c.drain() == [b"3"]


def test_a_full_queue_holds_its_senders_up_in_the_order_of_asking(w: World) -> None:
    a, b = pair(w, capacity=2)
    other = End(w, "post", "w", by=w.program())
    a.send("0")
    a.send("1")
    with pytest.raises(errors.WouldBlock):
        a.send("x")
    first, second = a.start_send("2"), other.start_send("3")

    assert b.recv().data == b"0"
    assert (a.is_open(first), other.is_open(second)) == (False, True)
    assert b.recv().data == b"1"
    assert not other.is_open(second)

    assert b.drain() == [b"2", b"3"]
    assert a.result(first).seq == 3


def test_nobody_passes_a_sender_that_waits_not_even_with_a_smaller_message() -> None:
    w = World(queue_bytes=10, message_bytes=10)
    a, b = pair(w)
    a.send("12345678")
    large = a.start_send("123456")
    with pytest.raises(errors.WouldBlock):
        a.send("1")

    assert b.recv().data == b"12345678"
    a.send("1")

    assert not a.is_open(large)
    assert b.drain() == [b"123456", b"1"]
    w.check()


def test_the_bytes_that_wait_in_a_queue_have_a_limit_too() -> None:
    w = World(queue_bytes=10, message_bytes=10)
    a, b = pair(w)
    a.send("1234567890")
    waits = [a.start_send("12345"), a.start_send("67890"), a.start_send("")]
    assert all(a.is_open(call) for call in waits)

    b.recv()

    assert not any(a.is_open(call) for call in waits)
    w.check()


def test_a_sender_that_gives_up_lets_the_next_one_go() -> None:
    w = World(queue_bytes=10, message_bytes=10)
    a, b = pair(w)
    a.send("12345")
    large, small = a.start_send("123456789"), a.start_send("1")

    w("cancel", target=large)

    with pytest.raises(errors.Interrupted):
        a.result(large)
    assert not a.is_open(small)
    assert b.drain() == [b"12345", b"1"]
    w.check()


def test_what_waits_too_long_times_out_and_leaves_its_place(w: World) -> None:
    a, b = pair(w, capacity=1)
    receives = b.start_recv(timeout_s=2.0)
    w.pass_time(2)
    a.send("0")
    sends = a.start_send("x", timeout_s=2.0)
    w.pass_time(2)
    later = a.start_send("1", timeout_s=2.0)

    for end, call in ((b, receives), (a, sends)):
        with pytest.raises(errors.TimedOut):
            end.result(call)
    assert b.drain() == [b"0", b"1"]
    assert a.result(later).seq == 2


def test_a_cancelled_receive_loses_no_message(w: World) -> None:
    a, b = pair(w)
    call = b.start_recv()

    w("cancel", by=b.pid, target=call)
    a.send("0")

    with pytest.raises(errors.Interrupted):
        b.result(call)
    assert b.recv().data == b"0"


def test_a_message_is_received_when_the_call_has_its_answer(w: World) -> None:
    a, b = pair(w)
    waiting = b.start_recv()
    a.send("0")  # on its way to the program, which dies before it reads it
    w.exited(b.pid, 137)
    second = End(w, "post", "r", by=w.program())

    assert b.got(waiting) == b"0"
    with pytest.raises(errors.WouldBlock):
        second.recv()


def test_a_receiver_that_dies_while_it_waits_takes_nothing_with_it(w: World) -> None:
    a, b = pair(w)
    b.start_recv()
    w("kill", pid=b.pid, signal="KILL")
    a.send("0")
    w.exited(b.pid, 137)

    assert End(w, "post", "r", by=w.program()).drain() == [b"0"]


def test_a_stopped_receiver_keeps_its_place_and_others_do_not_wait_for_it(w: World) -> None:
    a, b = pair(w)
    c = End(w, "post", "r", by=w.program())
    first, second = b.start_recv(), c.start_recv()
    w("kill", pid=b.pid, signal="STOP")

    a.send("0")
    a.send("1")
    w.check()
    assert c.got(second) == b"0" and b.is_open(first)
    w("kill", pid=b.pid, signal="CONT")

    assert b.got(first) == b"1"


def test_what_a_sender_sent_stays_when_it_ends(w: World) -> None:
    program = w.program()
    a = End(w, "post", "rw", create=True, capacity=1)
    theirs = End(w, "post", "w", by=program)
    theirs.send("0")
    theirs.start_send("never was in it")

    w.exited(program, 1)

    assert a.drain() == [b"0"]


def test_a_process_may_send_to_itself_and_wait_for_itself(w: World) -> None:
    end = End(w, "")
    call = end.start_recv()
    w.check()

    end.send("me")

    assert end.got(call) == b"me"


def test_a_channel_without_a_name_is_gone_with_its_handle(w: World) -> None:
    end = End(w, "")
    end.send("0", fds=(w.file(),))
    assert {key: w.kernel.counters()[key] for key in ("channels", "handles", "messages")} == {
        "channels": 1,
        "handles": 1,
        "messages": 1,
    }

    end.close()

    assert not any(w.kernel.counters()[key] for key in ("channels", "handles", "messages"))


def test_closing_ends_the_calls_of_the_process_on_that_handle_only(w: World) -> None:
    a = End(w, "post", create=True)
    b = End(w, "post")
    calls = [a.start_recv(), w.start("poll", receive=(b.ch, a.ch)), b.start_recv()]

    a.close()

    for call in calls[:2]:
        with pytest.raises(errors.Interrupted):
            w.result(call)
    b.send("0")
    assert b.got(calls[2]) == b"0"
    for op, args in (("send", {}), ("recv", {}), ("request", {}), ("channel_close", {})):
        with pytest.raises(errors.BadFile):
            w(op, ch=a.ch, **args)


def test_without_a_name_the_last_receiver_that_goes_breaks_the_senders(w: World) -> None:
    a, b = pair(w, capacity=1)
    w("channel_unlink", name="post")
    a.send("0", fds=(w.file(),))
    waits = a.start_send("1")

    b.close()

    with pytest.raises(errors.BrokenPipe):
        a.result(waits)
    with pytest.raises(errors.BrokenPipe):
        a.send("2")
    assert w.kernel.counters()["messages"] == 0


def test_without_a_name_the_last_sender_that_goes_ends_the_receivers_after_what_is_there(w: World) -> None:
    a, b = pair(w)
    w("channel_unlink", name="post")
    a.send("0")

    a.close()

    assert b.recv().data == b"0"
    with pytest.raises(errors.BrokenPipe):
        b.recv()


def test_a_receiver_that_waits_hears_that_the_last_sender_went(w: World) -> None:
    a, b = pair(w)
    call = b.start_recv()
    a.close()
    assert b.is_open(call)  # it has a name: somebody may come

    w("channel_unlink", name="post")

    with pytest.raises(errors.BrokenPipe):
        b.result(call)


def test_a_named_channel_keeps_what_waits_when_nobody_has_it_open(w: World) -> None:
    a = End(w, "post", "w", create=True)
    a.send("0")
    a.close()
    w.check()

    b = End(w, "post", "r")

    assert b.drain() == [b"0"]
    w("channel_unlink", name="post")


def test_unlinking_a_channel_that_nobody_has_open_drops_what_waits(w: World) -> None:
    a = End(w, "post", "w", create=True)
    fd = w.file()
    a.send("0", fds=(fd,))
    w("close", fd=fd)
    a.close()
    assert len(w.kernel.files.inodes) == 1

    w("channel_unlink", name="post")

    assert w.kernel.files.inodes == {}
    assert w.kernel.counters()["channels"] == 0


def test_a_message_has_its_limits(w: World) -> None:
    a, b = pair(w)
    fd = w.file()

    a.send(b"x" * (1 << 16), fds=(fd,) * 16)
    assert len(b.recv().fds) == 16
    for data, fds in ((b"x" * ((1 << 16) + 1), ()), (b"", (fd,) * 17)):
        with pytest.raises(errors.InvalidArgument):
            a.send(data, fds=fds)


def test_what_one_principal_sent_and_nobody_received_has_a_limit() -> None:
    w = World(mail_bytes=10)
    a, b = pair(w)
    mine = End(w, "mine", create=True)
    a.send("123456")
    with pytest.raises(errors.QuotaExceeded):
        mine.send("12345")
    other = client(w, OTHER)
    theirs = End(w, "theirs", create=True, by=other)

    theirs.send("12345")
    b.recv()
    mine.send("12345")

    w.check()


def test_a_sent_message_counts_for_its_process(w: World) -> None:
    a, b = pair(w, capacity=1)
    a.send("0")
    a.start_send("1")
    assert w("ps", pid=w.pid).processes[0].usage.num_messages == 1

    b.drain()
    asked = a.ask("2")
    b.respond(b.recv().token, "3")

    assert a.got(asked) == b"3"
    assert w("ps", pid=w.pid).processes[0].usage.num_messages == 3
    assert w("ps", pid=b.pid).processes[0].usage.num_messages == 1


@pytest.mark.parametrize(("op", "args"), [
    ("send", {"timeout_s": 0.0}), ("recv", {"timeout_s": float("inf")}), ("request", {"timeout_s": -1.0}),
])  # fmt: skip
def test_a_time_limit_is_a_positive_number(w: World, op: str, args: dict) -> None:
    end = End(w, "")

    with pytest.raises(errors.InvalidArgument):
        w(op, ch=end.ch, **args)
