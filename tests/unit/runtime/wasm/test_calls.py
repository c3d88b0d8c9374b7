"""Calls that are begun: several at once, and streams."""

import json
from typing import Any

import pytest

from tests.unit.runtime.wasm.guest import Guest, command
from vllm_symphony.abi.calls import Done, GeneratePart, GenerateResult, PidResult
from vllm_symphony.abi.codec import part_frame, reply_frame
from vllm_symphony.abi.types import pack_tokens
from vllm_symphony.errors import BadFile

IMPORTS = """
  (import "symphony" "start" (func $begin (param i32 i32) (result i64)))
  (import "symphony" "next" (func $next (param i64) (result i64)))
"""
HEAR = """
  (func $hear (result i32)
    (local $num i32)
    (local.set $num (i32.wrap_i64 (call $next (i64.const -1))))
    (if (local.get $num) (then
      (call $take (i32.const 32768))
      (i32.store8 (i32.add (i32.const 32768) (local.get $num)) (i32.const 10))
      (call $print (i32.const 32768) (i32.add (local.get $num) (i32.const 1)))))
    (local.get $num))
"""
HEAR_ALL = "(loop (br_if 0 (call $hear)))"


def beginning(body: str, *requests: dict[str, Any]) -> str:
    """A command that begins these calls, then does `body`."""
    texts = [json.dumps(r) for r in requests]
    starts, at = "", 1024
    for text in texts:
        starts += f"(drop (call $begin (i32.const {at}) (i32.const {len(text)})))"
        at += len(text)
    return command(starts + body, data="".join(texts), more=IMPORTS + HEAR)


def heard(guest: Guest) -> list[dict[str, Any]]:
    return [json.loads(line) for line in guest.out.splitlines()]


def test_parts_of_a_stream_come_before_its_result():
    def kernel(op: str, args: Any) -> Any:
        for token in (5, 6):
            guest.say(part_frame(1, GeneratePart(pack_tokens([token]), "x")))
        return GenerateResult(2, "length", pack_tokens([5, 6]), "xx")

    guest = Guest(kernel)

    end = guest.run(beginning(HEAR_ALL, {"op": "generate", "args": {"fd": 3, "stream": True}}))

    assert end.code == 0
    *parts, last = heard(guest)
    assert parts == [{"id": 1, "part": {"tokens": [t], "text": "x", "logprobs": []}} for t in (5, 6)]
    assert (last["id"], last["ok"]["tokens"], last["ok"]["text"]) == (1, [5, 6], "xx")


def test_several_calls_are_in_flight_and_answered_in_any_order():
    def kernel(op: str, args: Any) -> Any:
        if op == "sleep":
            return None
        guest.say(reply_frame(2, PidResult(7)))
        guest.say(reply_frame(1, Done()))
        return None

    guest = Guest(kernel)

    guest.run(beginning(HEAR_ALL, {"op": "sleep", "args": {"seconds": 9.0}}, {"op": "getpid"}))

    assert [op for op, _ in guest.calls] == ["sleep", "getpid"]
    assert heard(guest) == [{"id": 2, "ok": {"pid": 7}}, {"id": 1, "ok": {}}]


def test_an_answer_that_comes_while_another_call_waits_is_kept():
    ping = json.dumps({"op": "ping"})
    begin = json.dumps({"op": "getpid"})
    body = f"""
  (drop (call $begin (i32.const 1024) (i32.const {len(begin)})))
  (call $ask (i32.const {1024 + len(begin)}) (i32.const {len(ping)}))
  (drop (call $hear))
"""
    guest = Guest(lambda op, args: PidResult(7) if op == "getpid" else Done())

    guest.run(command(body, data=begin + ping, more=IMPORTS + HEAR))

    assert guest.out == '{"ok": {}}{"id": 1, "ok": {"pid": 7}}\n'


def test_an_error_is_heard_with_its_id():
    def kernel(op: str, args: Any) -> Any:
        raise BadFile("fd 9 is not open", fd=9)

    guest = Guest(kernel)

    guest.run(beginning(HEAR_ALL, {"op": "close", "args": {"fd": 9}}))

    assert heard(guest) == [{"id": 1, "err": {"reason": "EBADF", "message": "fd 9 is not open", "values": {"fd": 9}}}]


def test_a_call_that_is_none_is_not_begun():
    text = json.dumps({"op": "format_disk"})
    body = f"""
  (local $num i64)
  (local.set $num (call $begin (i32.const 1024) (i32.const {len(text)})))
  (if (i64.ge_s (local.get $num) (i64.const 0)) (then unreachable))
  (call $take (i32.const 4096))
  (call $print (i32.const 4096) (i32.wrap_i64 (i64.sub (i64.const 0) (local.get $num))))
"""
    guest = Guest()

    assert guest.run(command(body, data=text, more=IMPORTS)).code == 0
    assert json.loads(guest.out)["err"]["reason"] == "ENOSYS"
    assert guest.calls == []


def test_waiting_for_nothing_gives_nothing_at_once():
    assert Guest().run(command("(call $exit (i32.wrap_i64 (call $next (i64.const -1))))", more=IMPORTS)).code == 0


@pytest.mark.parametrize("timeout_ms", [0, 1])
def test_next_gives_nothing_when_its_time_is_over(timeout_ms: int):
    guest = Guest(lambda op, args: None)

    end = guest.run(
        beginning(f"(call $exit (i32.add (i32.const 3) (i32.wrap_i64 (call $next (i64.const {timeout_ms})))))", {"op": "ping"})
    )

    assert end.code == 3


def test_term_ends_a_guest_that_waits_for_anything():
    guest = Guest(lambda op, args: guest.term())

    assert guest.run(beginning(HEAR_ALL, {"op": "sleep", "args": {"seconds": 1e6}})).code == 130


def test_a_kernel_that_is_gone_is_heard_of():
    guest = Guest(lambda op, args: guest.hang_up())

    guest.run(beginning("(drop (call $hear))", {"op": "ping"}))

    assert heard(guest)[0]["err"]["reason"] == "ENODEV"


def test_the_call_exit_ends_the_guest_also_when_it_is_begun():
    guest = Guest()

    assert guest.run(beginning("unreachable", {"op": "exit", "args": {"code": 6}})).code == 6
