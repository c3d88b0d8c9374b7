"""Numbered calls, answers taken once, acknowledgements, and what is sent again."""

import asyncio

import pytest

from vllm_symphony.abi.calls import (
    CallError,
    Done,
    Generate,
    GeneratePart,
    GenerateResult,
    LeaseResult,
    NoArgs,
    Sleep,
    Spawn,
    Tokenize,
)
from vllm_symphony.client.session_transport import ACK_BYTES, ACK_MESSAGES, MAX_CALL_BYTES, SessionTransport
from vllm_symphony.errors import DataCorrupt, FileBusy, InvalidArgument, NoSuchProcess
from vllm_symphony.proto.message import outcome_message
from vllm_symphony.proto.v1 import session_pb2 as pb

NONE = NoArgs()


def answer(seq, call_id, result=None):
    message = pb.ConnectResponse(seq=seq)
    message.answer.id = call_id
    outcome_message(result or Done(), message.answer)
    return message


def sent(transport):
    """What goes out now: (id, ack) of each message."""
    messages = []
    while (message := transport.next_message()) is not None:
        messages.append((message.call.id, message.ack))
    return messages


def play(work, *, source=lambda: "", on_term=lambda: None):
    async def main():
        return await work(SessionTransport(source, on_term))

    return asyncio.run(main())


def test_calls_and_posts_are_numbered_in_the_order_they_were_made():
    async def work(transport):
        transport.call("ping", NONE)
        transport.post("ping", NONE)
        transport.call("ping", NONE)

        assert sent(transport) == [(1, 0), (2, 0), (3, 0)]

    play(work)


def test_after_a_loss_only_what_the_server_has_not_seen_is_sent_again():
    async def work(transport):
        for _ in range(5):
            transport.call("ping", NONE)
        assert len(sent(transport)) == 5
        transport.take(answer(1, 1))
        transport.take(answer(2, 4))

        transport.start_over(last_call=2)

        assert sent(transport) == [(3, 2), (5, 2)]

    play(work)


def test_what_was_made_while_nobody_was_connected_is_sent_once_somebody_is():
    async def work(transport):
        transport.call("ping", NONE)
        sent(transport)
        transport.start_over(last_call=0)
        transport.call("ping", NONE)

        assert sent(transport) == [(1, 0), (2, 0)]

    play(work)


def test_an_answer_that_comes_again_is_not_taken_again():
    async def work(transport):
        parts = []
        generating = transport.call("generate", Generate(3, stream=True), on_part=parts.append)
        for _ in range(2):
            transport.take(answer(1, 1, GeneratePart(b"", "a")))
            transport.take(answer(2, 1, GeneratePart(b"", "b")))
        transport.take(answer(3, 1, GenerateResult(2, "length", b"")))
        transport.take(answer(3, 1, GenerateResult(2, "length", b"")))

        assert [part.text for part in parts] == ["a", "b"]
        assert (await generating).reason == "length"
        assert transport.received == 3

    play(work)


def test_a_hole_in_the_answers_is_noticed():
    async def work(transport):
        transport.take(answer(1, 1))
        with pytest.raises(DataCorrupt, match="message 3 came after 1"):
            transport.take(answer(3, 1))

    play(work)


def test_answers_are_acknowledged_with_the_next_call_and_alone_after_enough_of_them():
    async def work(transport):
        for seq in range(1, ACK_MESSAGES):
            transport.take(answer(seq, 0))
        assert sent(transport) == []
        transport.call("ping", NONE)
        assert sent(transport) == [(1, ACK_MESSAGES - 1)]

        for seq in range(ACK_MESSAGES, 2 * ACK_MESSAGES):
            transport.take(answer(seq, 0))
        assert transport.changed.is_set()
        assert sent(transport) == [(0, 2 * ACK_MESSAGES - 1)]

        half = GeneratePart(b"x" * (ACK_BYTES // 2))
        transport.take(answer(2 * ACK_MESSAGES, 0, half))
        assert sent(transport) == []
        transport.take(answer(2 * ACK_MESSAGES + 1, 0, half))
        assert sent(transport) == [(0, 2 * ACK_MESSAGES + 1)]

    play(work)


def test_a_cancelled_call_sends_cancel_and_its_late_answer_is_dropped():
    async def work(transport):
        sleeping = transport.call("sleep", Sleep(600.0))
        sleeping.cancel()
        messages = [transport.next_message(), transport.next_message()]
        transport.take(answer(1, 1, CallError("EINTR", "cancelled")))
        transport.take(answer(2, 2))

        assert [m.call.WhichOneof("args") for m in messages] == ["sleep", "cancel"]
        assert messages[1].call.cancel.target == 1
        transport.start_over(last_call=0)
        assert sent(transport) == []

    play(work)


def test_an_error_is_the_class_of_its_reason():
    async def work(transport):
        busy = transport.call("ping", NONE)
        transport.take(answer(1, 1, CallError("EBUSY", "fd 3 is written", {"fd": 3}, 0.25)))

        with pytest.raises(FileBusy) as failed:
            await busy
        assert (failed.value.values, failed.value.retry_after_s) == ({"fd": 3}, 0.25)

    play(work)


def test_an_answer_of_a_newer_server_is_an_error_of_its_call_only():
    async def work(transport):
        strange, plain = transport.call("ping", NONE), transport.call("keep_alive", NONE)
        unknown = pb.ConnectResponse(seq=1)
        unknown.answer.id = 1
        transport.take(unknown)
        transport.take(answer(2, 2, LeaseResult(5.0)))

        with pytest.raises(Exception, match="older than the server"):
            await strange
        assert (await plain).lease_s == 5.0

    play(work)


def test_term_is_told_once_and_after_answers_that_came_before_it():
    told = []

    async def work(transport):
        waiting = transport.call("ping", NONE)
        waiting.add_done_callback(lambda _: told.append("answer"))
        transport.take(answer(1, 1))
        transport.take(pb.ConnectResponse(seq=2, signal="TERM"))
        transport.take(pb.ConnectResponse(seq=3, signal="TERM"))
        await waiting
        await asyncio.sleep(0)

    play(work, on_term=lambda: told.append("term"))

    assert told == ["answer", "term"]


def test_the_end_reaches_every_call_each_with_an_error_of_its_own():
    async def work(transport):
        first, second = transport.call("ping", NONE), transport.call("ping", NONE)
        transport.end(NoSuchProcess("session 7 has ended", pid=7))
        later = transport.call("ping", NONE)
        transport.post("ping", NONE)

        errors = await asyncio.gather(first, second, later, return_exceptions=True)
        assert [(type(e), e.values) for e in errors] == [(NoSuchProcess, {"pid": 7})] * 3
        assert len({id(e) for e in errors}) == 3
        assert sent(transport) == []

    play(work)


def test_a_call_that_is_too_large_is_refused_and_takes_no_number():
    async def work(transport):
        with pytest.raises(InvalidArgument, match=f"the most is {MAX_CALL_BYTES}"):
            transport.call("tokenize", Tokenize("x" * MAX_CALL_BYTES))
        with pytest.raises(InvalidArgument):
            transport.call("tokenize", Tokenize("\ud800"))
        transport.call("ping", NONE)

        assert sent(transport) == [(1, 0)]

    play(work)


def test_a_child_of_a_function_gets_the_programs_text():
    async def work(transport):
        transport.call("spawn", Spawn(None, "square"))
        transport.call("spawn", Spawn("other", "main"))

        assert [transport.next_message().call.spawn.source for _ in range(2)] == ["the text", "other"]

    play(work, source=lambda: "the text")
