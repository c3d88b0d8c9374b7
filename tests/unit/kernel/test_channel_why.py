"""why: what calls at channels wait for."""

from tests.unit.kernel.post import End, client, pair
from tests.unit.kernel.world import ADMIN, OTHER, World
from vllm_symphony.abi.types import ThreadWait


def wait_of(w: World, pid: int, by: int | None = None) -> ThreadWait:
    (wait,) = w("why", pid=pid, by=by).threads
    return wait


def test_a_receiver_waits_for_who_may_send(w: World) -> None:
    a, b = pair(w)
    End(w, "post", "w", by=w.program())
    b.start_recv()

    wait = wait_of(w, b.pid)

    assert (wait.op, wait.cause, wait.args) == ("recv", "channel", f"ch={b.ch}")
    assert wait.detail == f"no message in me/post, process {w.pid}, process {b.pid + 1} sends to it"
    a.close()


def test_a_sender_waits_for_who_may_receive_behind_others(w: World) -> None:
    a, b = pair(w, capacity=1)
    theirs = End(w, "post", "w", by=w.program())
    a.send("0")
    a.start_send("1")
    theirs.ask("22")

    wait = wait_of(w, theirs.pid)

    assert (wait.op, wait.cause, wait.args) == ("request", "channel", f"ch={theirs.ch} bytes=2")
    assert wait.detail == f"me/post is full (1 of 1 messages), process {b.pid} receives from it; calls before it: 1"


def test_a_request_is_in_the_queue_and_then_with_its_receiver(w: World) -> None:
    a, b = pair(w)
    program = w.program()
    asker = End(w, "post", "w", by=program)
    a.send("0")
    asker.ask("?")

    assert wait_of(w, program).detail == f"in me/post behind 1 messages, process {b.pid} receives from it"
    b.drain()
    assert wait_of(w, program).detail == f"process {b.pid} has received it and not answered"


def test_who_waits_for_itself_is_told_so(w: World) -> None:
    program = w.program()
    end = End(w, "", by=program)
    end.start_recv()

    assert wait_of(w, program).detail == "no message in a channel without a name, only the process itself sends to it"


def test_a_channel_that_nobody_has_open_at_the_other_side_is_told_so(w: World) -> None:
    program = w.program()
    End(w, "post", "r", by=program, create=True).start_recv()

    assert wait_of(w, program).detail == "no message in me/post, nobody sends to it"


def test_processes_that_one_may_not_see_have_no_number(w: World) -> None:
    w("umask", mask=0)
    program = w.program()
    end = End(w, "post", "r", by=program, create=True, mode=0o622)
    theirs = client(w, OTHER)
    End(w, "me/post", "w", by=theirs)
    end.start_recv()

    assert wait_of(w, program).detail == "no message in me/post, another's process sends to it"
    assert wait_of(w, program, client(w, ADMIN)).detail == f"no message in me/post, process {theirs} sends to it"


def test_poll_names_what_it_looks_at(w: World) -> None:
    a, b = pair(w)
    other = End(w, "", by=b.pid)
    w.start("poll", by=b.pid, receive=(b.ch, other.ch, b.ch), timeout_s=5.0)

    wait = wait_of(w, b.pid)

    assert wait.args == f"receive={b.ch},{other.ch},{b.ch} timeout_s=5.0"
    assert wait.detail == "nothing has happened to me/post, a channel without a name"
    a.close()
