"""Topics: each subscriber its own queue, and what happens when one is full."""

import pytest

from tests.unit.kernel.post import End
from tests.unit.kernel.world import World
from vllm_symphony import errors


def topic(w: World, num_subscribers: int, **args: object) -> tuple[End, list[End]]:
    """A topic of the client's, and that many programs that listen."""
    sender = End(w, "news", "w", create=True, kind="topic", **args)
    return sender, [End(w, "news", "r", by=w.program()) for _ in range(num_subscribers)]


def test_each_message_goes_to_all_who_listen_by_then(w: World) -> None:
    a, [b] = topic(w, 1)
    assert a.send("0").num_receivers == 1
    c = End(w, "news", "r", by=w.program())

    assert a.send("1").num_receivers == 2

    assert (b.drain(), c.drain()) == ([b"0", b"1"], [b"1"])


def test_a_topic_that_nobody_listens_to_takes_a_message_and_forgets_it(w: World) -> None:
    a, _ = topic(w, 0)

    assert a.send("0", fds=(w.file(),)).num_receivers == 0
    assert w.kernel.counters()["messages"] == 0


def test_a_topic_that_blocks_waits_until_all_have_room(w: World) -> None:
    a, [b, c] = topic(w, 2, capacity=1)
    a.send("0")
    call = a.start_send("1")

    b.recv()
    assert a.is_open(call)
    c.recv()

    assert a.result(call).num_receivers == 2


def test_a_listener_that_goes_holds_up_nobody(w: World) -> None:
    a, [b, c] = topic(w, 2, capacity=1)
    a.send("0")
    call = a.start_send("1")
    b.recv()

    w.exited(c.pid, 137)

    assert not a.is_open(call)
    assert b.drain() == [b"1"]


def test_the_oldest_are_dropped_and_the_next_message_says_how_many(w: World) -> None:
    a, [b, c] = topic(w, 2, capacity=2, overflow="drop_oldest")
    for n in range(5):
        a.send(f"{n}")
        c.recv()

    first, second = b.recv(), b.recv()
    a.send("5")

    assert [(first.data, first.missing), (second.data, second.missing)] == [(b"3", 3), (b"4", 0)]
    assert (b.recv().missing, c.recv().missing) == (0, 0)


def test_the_new_are_dropped_and_the_next_message_that_fits_says_how_many(w: World) -> None:
    a, [b, c] = topic(w, 2, capacity=2, overflow="drop_new")
    took = []
    for n in range(4):
        took.append(a.send(f"{n}").num_receivers)
        c.recv()
    kept = [b.recv() for _ in range(2)]
    a.send("4")

    last = b.recv()

    assert took == [2, 2, 1, 1]
    assert [(m.data, m.missing) for m in kept] == [(b"0", 0), (b"1", 0)]
    assert (last.data, last.missing) == (b"4", 2)


def test_large_messages_push_out_as_many_as_they_need() -> None:
    w = World(queue_bytes=10, message_bytes=10)
    a, [b] = topic(w, 1, overflow="drop_oldest")
    for data in ("1234", "5678", "1234567890"):
        a.send(data)

    message = b.recv()

    assert (message.data, message.missing) == (b"1234567890", 2)
    w.check()


def test_files_of_a_dropped_message_are_let_go(w: World) -> None:
    a, [b] = topic(w, 1, capacity=1, overflow="drop_oldest")
    fd = w.file()
    a.send("0", fds=(fd,))
    w("close", fd=fd)
    assert len(w.kernel.files.inodes) == 1

    a.send("1")

    assert w.kernel.files.inodes == {}
    assert b.recv().data == b"1"


def test_each_listener_gets_the_files_for_itself(w: World) -> None:
    a, [b, c] = topic(w, 2)
    fd = w.file([1, 2])
    a.send("0", fds=(fd,))
    w("close", fd=fd)

    fds = [end.recv().fds[0] for end in (b, c)]

    assert [w.tokens(fd, end.pid) for fd, end in zip(fds, (b, c), strict=True)] == [[1, 2], [1, 2]]


def test_nobody_answers_on_a_topic(w: World) -> None:
    a, _ = topic(w, 1)

    with pytest.raises(errors.BrokenPipe):
        a.result(a.ask("?"))


def test_an_unlinked_topic_breaks_when_nobody_listens(w: World) -> None:
    a, [b] = topic(w, 1)
    w("channel_unlink", name="news")
    a.send("0")

    b.close()

    with pytest.raises(errors.BrokenPipe):
        a.send("1")
