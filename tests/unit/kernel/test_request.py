"""Requests that are repeated: each happens once, the other body is refused, and what is kept is bounded."""

import pytest

from tests.unit.kernel.world import ME, OTHER, World
from vllm_symphony.abi.calls import Append, Forward, Random, Read
from vllm_symphony.abi.types import Credentials, pack_tokens
from vllm_symphony.errors import InvalidArgument, WouldBlock
from vllm_symphony.kernel.request import Requests


def again(w: World, op: str, args: object, request_id: str, *, by: int | None = None, cred=None):
    """A call with a request id: its id."""
    w.num_calls += 1
    w.kernel.call(w.pid if by is None else by, w.num_calls, 0, op, args, w.now_ns, cred, request_id=request_id)
    w.drain()
    return w.num_calls


def test_the_first_claim_is_new_and_the_next_gets_its_result():
    requests = Requests(4)

    assert requests.claim("r", "random", Random(1)) is None
    requests.settle("r", "result")
    assert requests.claim("r", "random", Random(1)) == "result"


def test_the_same_id_for_another_body_or_another_call_is_refused():
    requests = Requests(4)
    requests.claim("r", "random", Random(1))
    requests.settle("r", "result")

    for op, args in (("random", Random(2)), ("sleep", Random(1))):
        with pytest.raises(InvalidArgument, match="used for another call"):
            requests.claim("r", op, args)


def test_while_the_first_one_runs_a_retry_is_told_to_come_again():
    requests = Requests(4)
    requests.claim("r", "random", Random(1))

    with pytest.raises(WouldBlock) as refused:
        requests.claim("r", "random", Random(1))

    assert refused.value.retry_after_s


def test_what_failed_may_be_tried_anew_with_another_body_too():
    requests = Requests(4)
    requests.claim("r", "random", Random(1))
    requests.forget("r")

    assert requests.claim("r", "random", Random(2)) is None


def test_the_oldest_results_make_room_and_those_in_flight_do_not():
    requests = Requests(2)
    requests.claim("flying", "random", Random(1))
    for number in range(5):
        requests.claim(f"r{number}", "random", Random(1))
        requests.settle(f"r{number}", number)

    assert len(requests) == 2
    with pytest.raises(WouldBlock):
        requests.claim("flying", "random", Random(1))
    assert requests.claim("r0", "random", Random(1)) is None, "forgotten, so it happens anew"


def test_as_many_in_flight_as_may_be_kept_are_all():
    requests = Requests(2)
    requests.claim("a", "random", Random(1))
    requests.claim("b", "random", Random(1))

    with pytest.raises(WouldBlock, match="in flight"):
        requests.claim("c", "random", Random(1))

    assert len(requests) == 2


def test_a_repeated_forward_runs_once(w: World):
    fd = w.file([1, 2])
    args = Forward(fd, pack_tokens([3]))

    first = again(w, "forward", args, "r")
    running = again(w, "forward", args, "r")
    w.step()
    retry = again(w, "forward", args, "r")

    assert w.result(first) == w.result(retry)
    assert w.replies[w.pid, running].reason == "EAGAIN"
    assert w.tokens(fd) == [1, 2, 3] and not w.jobs


def test_a_forward_that_failed_is_tried_anew(w: World):
    fd = w.file([1, 2])
    args = Forward(fd, pack_tokens([3]))

    again(w, "forward", args, "r")
    w.fail()
    second = again(w, "forward", args, "r")
    w.step()

    assert w.result(second).length == 3


def test_a_call_that_changes_nothing_is_made_each_time(w: World):
    fd = w.file([1])

    before = w.result(again(w, "read", Read(fd), "r"))
    w.result(again(w, "append", Append(fd, pack_tokens([2])), "a"))

    assert before.length == 1
    assert w.result(again(w, "read", Read(fd), "r")).length == 2


def test_requests_of_two_principals_behind_one_edge_are_apart(w: World):
    edge = w.kernel.connect(ME, "edge", 0)

    mine = w.result(again(w, "random", Random(8), "r", by=edge, cred=ME), edge)
    theirs = w.result(again(w, "random", Random(8), "r", by=edge, cred=OTHER), edge)

    assert mine != theirs
    assert w.result(again(w, "random", Random(8), "r", by=edge, cred=ME), edge) == mine


def test_the_principals_whose_results_are_kept_are_bounded():
    w = World(requesters=2)
    edge = w.kernel.connect(ME, "edge", 0)
    results = [w.result(again(w, "random", Random(8), "r", by=edge, cred=Credentials(f"p{n}")), edge) for n in range(3)]

    assert len(w.kernel.requests) == 2
    assert w.result(again(w, "random", Random(8), "r", by=edge, cred=Credentials("p2")), edge) == results[2]


def test_a_request_id_of_a_process_that_ended_is_forgotten(w: World):
    client = w.kernel.connect(ME, "client", 0)
    again(w, "random", Random(8), "r", by=client)
    process = w.kernel.processes[client]

    w.disconnect(client)

    assert len(process.requests) == 0
