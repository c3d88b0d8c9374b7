"""What stands beside a call's arguments: the caller's side refuses what the kernel's side would not read."""

import pytest

from vllm_symphony.abi.calls import MAX_REQUEST_ID, NoArgs
from vllm_symphony.abi.codec import MAX_ID, MAX_RESUME, call_frame, read_call
from vllm_symphony.errors import InvalidArgument

LIMITS = {"request_id": "r" * MAX_REQUEST_ID, "resume": "é" * MAX_RESUME, "ack": MAX_ID, "session": MAX_ID}


@pytest.mark.parametrize("name", LIMITS)
def test_a_field_at_its_limit_arrives_and_one_past_it_is_not_sent(name):
    most = LIMITS[name]

    assert getattr(read_call(call_frame(1, "ping", NoArgs(), **{name: most})[4:]), name) == most
    with pytest.raises(InvalidArgument, match=name):
        call_frame(1, "ping", NoArgs(), **{name: most + ("x" if isinstance(most, str) else 1)})


@pytest.mark.parametrize(("call_id", "tid"), [(-1, 0), (MAX_ID + 1, 0), (1, -1), (1, MAX_ID + 1), (2**64 - 1, 2**64 - 1)])
def test_ids_are_what_every_languages_integers_hold(call_id, tid):
    assert read_call(call_frame(MAX_ID, "ping", NoArgs(), MAX_ID)[4:]).tid == MAX_ID
    with pytest.raises(InvalidArgument, match="id and tid"):
        call_frame(call_id, "ping", NoArgs(), tid)


def test_negative_numbers_beside_a_call_are_not_sent():
    for name in ("ack", "session"):
        with pytest.raises(InvalidArgument, match=name):
            call_frame(1, "ping", NoArgs(), **{name: -1})
