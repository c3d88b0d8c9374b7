"""Requests: one answer, or a reason why there is none."""

import pytest

from tests.unit.kernel.post import End, pair
from tests.unit.kernel.world import World
from vllm_symphony import errors


def test_a_request_waits_for_its_answer(w: World) -> None:
    a, b = pair(w)
    call = a.ask("?")
    message = b.recv()
    w.check()
    assert message.token and a.is_open(call)

    b.respond(message.token, "!")

    answer = a.result(call).message
    assert (answer.data, answer.pid, answer.seq, answer.token) == (b"!", b.pid, message.seq, 0)


def test_answers_may_come_in_any_order(w: World) -> None:
    a, b = pair(w)
    calls = [a.ask(f"{n}") for n in range(3)]
    tokens = [b.recv().token for _ in range(3)]

    for n in (2, 0, 1):
        b.respond(tokens[n], f"answer {n}")

    assert [a.got(call) for call in calls] == [b"answer 0", b"answer 1", b"answer 2"]


def test_a_request_is_answered_once(w: World) -> None:
    a, b = pair(w)
    a.ask("?")
    token = b.recv().token
    b.respond(token)

    with pytest.raises(errors.BrokenPipe):
        b.respond(token)


def test_only_who_received_a_request_answers_it(w: World) -> None:
    a, b = pair(w)
    thief = End(w, "post", "r", by=w.program())
    call = a.ask("?")
    token = b.recv().token

    for stranger in (thief, a):
        with pytest.raises(errors.BrokenPipe):
            stranger.respond(token, "stolen")
    b.respond(token, "mine")

    assert a.got(call) == b"mine"


@pytest.mark.parametrize("how", ["closes", "ends", "is killed"])
def test_a_receiver_that_goes_without_an_answer_breaks_the_request(w: World, how: str) -> None:
    a, b = pair(w)
    call = a.ask("?")
    b.recv()

    if how == "closes":
        b.close()
    elif how == "ends":
        w.exited(b.pid)
    else:
        w("kill", pid=b.pid, signal="KILL")
        w.exited(b.pid, 137)

    with pytest.raises(errors.BrokenPipe):
        a.result(call)


def test_a_request_that_nobody_received_waits_for_the_next_receiver(w: World) -> None:
    a, b = pair(w)
    call = a.ask("?")
    b.close()
    assert a.is_open(call)

    c = End(w, "post", "r", by=w.program())
    c.respond(c.recv().token, "late")

    assert a.got(call) == b"late"


def test_a_request_in_a_channel_without_a_name_breaks_with_its_last_receiver(w: World) -> None:
    a, b = pair(w, capacity=1)
    w("channel_unlink", name="post")
    calls = [a.ask("in the queue"), a.ask("in line")]

    b.close()

    for call in calls:
        with pytest.raises(errors.BrokenPipe):
            a.result(call)


@pytest.mark.parametrize("where", ["in line", "in the queue", "received"])
@pytest.mark.parametrize("how", ["cancelled", "late", "dead"])
def test_a_request_that_was_given_up_leaves_nothing_wherever_it_was(w: World, where: str, how: str) -> None:
    """What was not received is withdrawn; what was, has nobody to be answered to."""
    _, b = pair(w, capacity=1)
    program = w.program()
    asker = End(w, "post", "w", by=program)
    if where == "in line":
        asker.send("before it")
    call = asker.ask("?", fds=(w.file([1], by=program),), timeout_s=2.0)
    behind = End(w, "post", "w")
    after = behind.start_send("after it")
    token = b.recv().token if where == "received" else 0
    w.check()

    if how == "cancelled":
        w("cancel", by=program, target=call)
    elif how == "late":
        w.pass_time(2)
    else:
        w.exited(program, 137)
    w.check()

    if token:
        with pytest.raises(errors.BrokenPipe):
            b.respond(token)
    assert b.drain() == ([b"before it"] if where == "in line" else []) + [b"after it"]
    assert behind.result(after).num_receivers == 1


def test_files_go_along_with_an_answer(w: World) -> None:
    a, b = pair(w)
    call = a.ask("?")
    fd = w.file([4, 5], by=b.pid)

    b.respond(b.recv().token, fds=(fd,))
    w.exited(b.pid)

    assert w.tokens(a.result(call).message.fds[0]) == [4, 5]


def test_who_cannot_have_the_files_of_an_answer_hears_why(w: World) -> None:
    small = World(fds=2)
    a, b = pair(small)
    call = a.ask("?")
    fd = small.file(by=b.pid)
    for _ in range(2):
        small.file()

    b.respond(b.recv().token, fds=(fd,))

    with pytest.raises(errors.TooManyFiles):
        a.result(call)
    small.check()


def test_a_process_may_ask_itself_in_vain(w: World) -> None:
    end = End(w, "", "rw")
    call = end.ask("anybody?", timeout_s=5.0)
    w.check()

    w.pass_time(5)

    with pytest.raises(errors.TimedOut):
        end.result(call)
