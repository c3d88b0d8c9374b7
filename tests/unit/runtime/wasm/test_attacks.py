"""What a hostile module may try against the process that runs it: each ends as documented, and only for itself."""

import json
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.unit.runtime.wasm.guest import Guest, asking, command
from vllm_symphony.abi.calls import Done
from vllm_symphony.abi.codec import reply_frame
from vllm_symphony.runtime.wasm import module

MIB = 1 << 20


def leb(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def with_bodies(*bodies: bytes) -> bytes:
    """A module whose functions take and give nothing and have these bodies; the first is `_start`."""
    count = leb(len(bodies))
    head = b"\0asm\1\0\0\0" + section(1, b"\1\x60\0\0") + section(3, count + bytes(len(bodies)))
    return head + section(7, b"\1\6_start\0\0") + section(10, count + b"".join(leb(len(b)) + b for b in bodies))


def test_memory_grow_stops_at_the_limit_and_the_guest_goes_on():
    body = """
  (local $pages i32)
  (block (loop
    (br_if 1 (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
    (local.set $pages (i32.add (local.get $pages) (i32.const 16)))
    (br 0)))
  (call $exit (i32.div_u (local.get $pages) (i32.const 16)))
"""

    end = Guest().run(command(body), memory_bytes=64 * MIB)

    assert end.code == 64 // 4 * 3 - 1  # its first page takes part of the last MiB


@pytest.mark.parametrize(
    "instruction", ["(table.grow $t (ref.null func) (i32.const 0x7fffffff))", "(memory.grow (i32.const 65535))"]
)
def test_one_giant_growth_is_refused(instruction: str):
    guest = Guest()

    end = guest.run(
        command(f"(if (i32.eq {instruction} (i32.const -1)) (then (call $exit (i32.const 9))))", more="(table $t 1 funcref)")
    )

    assert end.code == 9


def test_table_grow_stops_at_the_limit():
    body = """
  (local $n i32)
  (block (loop
    (br_if 1 (i32.eq (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br 0)))
  (call $exit (local.get $n))
"""

    assert Guest().run(command(body, more="(table $t 0 funcref)")).code == 100


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ("(memory 65536)", "exceeds memory limits"),
        ("(memory 1) (memory 1)", "memory count too high at 2"),
        ("(table 200000 funcref)", "exceeds table limits"),
        (" ".join(["(table 1 funcref)"] * 9), "table count too high at 9"),
        ("(memory i64 1)", "memory64"),
        ("(memory 1 1 shared)", "threads"),
    ],
)
def test_a_module_that_is_too_large_from_the_start_does_not_start(part: str, complaint: str):
    end = Guest().run(f'(module {part} (func (export "_start")))')

    assert (end.code, end.reason) == (2, "program")
    assert end.error is not None and complaint in end.error


@pytest.mark.parametrize(
    ("at", "size"), [(65536, 1), (-1, 1), (65530, 100), (0, -1), (1024, 0x7FFFFFFF), (-2147483648, -2147483648), (65537, 0)]
)
def test_a_forged_range_ends_the_guest_and_touches_nothing(at: int, size: int):
    guest = Guest()

    end = guest.run(command(f"(drop (call $call (i32.const {at}) (i32.const {size})))"))

    assert (end.code, end.reason, guest.calls) == (1, "exception", [])
    assert end.error is not None and "outside of its memory of 65536 bytes" in end.error


def test_take_writes_nothing_outside_and_nothing_twice():
    ping = '{"op": "ping"}'
    call = f"(drop (call $call (i32.const 1024) (i32.const {len(ping)})))"

    outside = Guest().run(command(f"{call} (call $take (i32.const 65530))", data=ping))
    twice = Guest().run(command(f"{call} (call $take (i32.const 0)) (call $take (i32.const 0))", data=ping))
    early = Guest().run(command("(call $take (i32.const 0))"))

    assert outside.error is not None and "10 bytes at 65530 are outside of its memory" in outside.error
    assert twice.error == early.error == "symphony.take: there is no answer to take"
    assert [e.code for e in (outside, twice, early)] == [1, 1, 1]


def test_a_guest_without_memory_cannot_call():
    imports = '(import "symphony" "call" (func $c (param i32 i32) (result i64)))'
    wat = f'(module {imports} (func (export "_start") (drop (call $c (i32.const 0) (i32.const 0)))))'

    assert Guest().run(wat).error == 'it exports no memory with the name "memory"'


@pytest.mark.parametrize(
    "kind", ['(func (export "memory"))', '(global (export "memory") i32 (i32.const 0))', '(table (export "memory") 1 funcref)']
)
def test_what_is_called_memory_and_is_none_is_refused(kind: str):
    imports = '(import "symphony" "call" (func $c (param i32 i32) (result i64)))'
    wat = f'(module {imports} {kind} (func (export "_start") (drop (call $c (i32.const 0) (i32.const 0)))))'

    assert Guest().run(wat).code == 1


@pytest.mark.parametrize(
    ("vectors", "count"),
    [(65533, 1), (0, -1), (0, 1025), (-8, 1), (64, 0x10000000)],
    ids=["table", "all", "many", "end", "overflow"],
)
def test_forged_vectors_of_a_write_are_refused(vectors: int, count: int):
    guest = Guest()

    end = guest.run(command(f"(call $exit (call $write (i32.const 1) (i32.const {vectors}) (i32.const {count}) (i32.const 8)))"))

    assert end.code in (1, 28)  # outside of its memory, or EINVAL
    assert guest.out == ""


def test_a_forged_buffer_of_a_write_shows_nothing_of_ours():
    body = "(i32.store (i32.const 0) (i32.const 65528)) (i32.store (i32.const 4) (i32.const 64))"
    guest = Guest()

    end = guest.run(command(f"{body} (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))"))

    assert (end.code, guest.out) == (1, "")


@pytest.mark.parametrize(
    ("request_text", "reason"),
    [
        ("", "EINVAL"),
        ("nonsense", "EINVAL"),
        ("[" * 40_000, "EINVAL"),
        ("9" * 5_000, "EINVAL"),
        ("[1]", "EINVAL"),
        ('{"op": 1}', "EINVAL"),
        ('{"op": "ping", "args": [1]}', "EINVAL"),
        ('{"op": "ping", "id": 3}', "EINVAL"),
        ('{"op": "ping", "tid": -1}', "EINVAL"),
        ('{"op": "ping", "tid": 1e300}', "EINVAL"),
        ('{"op": "format_disk"}', "ENOSYS"),
        ('{"op": "__class__", "args": {}}', "ENOSYS"),
        ('{"op": "ping", "args": {"x": 1}}', "EINVAL"),
        ('{"op": "ping", "args": {"x": 123456789012345678901234567890}}', "EINVAL"),
        ('{"op": "forward", "args": {"fd": 3, "tokens": [-1]}}', "EINVAL"),
        ('{"op": "forward", "args": {"fd": 3, "tokens": [4294967296]}}', "EINVAL"),
        ('{"op": "forward", "args": {"fd": 3, "tokens": "AAAA"}}', "EINVAL"),
        ('{"op": "forward", "args": {"fd": 3, "tokens": [NaN]}}', "EINVAL"),
        ('{"op": "forward", "args": {"fd": "3"}}', "EINVAL"),
        ('{"op": "spawn", "args": {"code": "not base64!"}}', "EINVAL"),
        ('{"op": "sample", "args": {"fd": 3, "sampler": {"logit_bias": {"x": 1.0}}}}', "EINVAL"),
        ('{"op": "exit", "args": {"code": "0"}}', "EINVAL"),
        ('{"op": "exit", "args": {"value": "not json"}}', "EINVAL"),
        ('{"op": "generate", "args": {"fd": 3, "until": ' + '{"op": "and", "parts": [' * 400 + "]}" * 400 + "}}", "EINVAL"),
        ('{"op": "\\udc80"}', "ENOSYS"),
        ('{"op": "open", "args": {"path": "\\udc80"}}', "EINVAL"),
        ("\x00\xff", "EINVAL"),
    ],
)
def test_a_call_that_is_none_is_answered_with_its_error(request_text: str, reason: str):
    guest = Guest()

    end = guest.run(asking(request_text))

    assert end.code == 0
    assert json.loads(guest.out)["err"]["reason"] == reason


def test_a_late_answer_to_another_call_is_not_taken_for_this_one():
    def kernel(op: str, args: Any) -> Done:
        guest.say(reply_frame(999, Done()))
        return Done()

    guest = Guest(kernel)

    assert guest.run(asking({"op": "ping"})).code == 0
    assert json.loads(guest.out) == {"ok": {}}


def test_endless_recursion_is_a_trap():
    end = Guest().run(command("(call $f)", more="(func $f (call $f))"))

    assert (end.code, end.error) == (1, "wasm trap: call stack exhausted")


def test_a_module_larger_than_the_limit_is_not_compiled():
    end = Guest().run(b"\0asm\1\0\0\0" + section(0, b"\1x" + bytes(module.MAX_MODULE_BYTES)))

    assert end.code == 2
    assert end.error is not None and f"the limit is {module.MAX_MODULE_BYTES}" in end.error


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (with_bodies(b"\0" + b"\1" * module.MAX_FUNCTION_BYTES + b"\x0b"), "has a function of"),
        (with_bodies(b"\1" + leb(40_000) + b"\x7f" + b"\1" * 90_000 + b"\x0b"), "with 40000 local variables: too much to compile"),
        (with_bodies(*[b"\0\x0b"] * (module.MAX_FUNCTIONS + 1)), "functions, the limit is"),
        (with_bodies(leb(1 << 31) + b"\x0b"), "ends in the middle of a section"),
        (b"\0asm\1\0\0\0" + section(10, leb(0xFFFFFFFF) + b"\2\0\x0b"), "ends in the middle of a section"),
        (b"\0asm\1\0\0\0" + section(10, b"\xff" * 8), "ends in the middle of a section"),
    ],
    ids=["function", "locals", "functions", "runs", "count", "number"],
)
def test_a_module_that_would_be_dear_to_compile_is_not_compiled(code: bytes, complaint: str):
    end = Guest().run(code)

    assert (end.code, end.reason) == (2, "program")
    assert end.error is not None and complaint in end.error


@pytest.mark.keeps("threads", "fds")  # the compiler's, which cannot be stopped; a program's process ends with it
def test_a_compilation_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_COMPILE_S", 0.2)
    loops = with_bodies(b"\0" + b"\3\x40\x41\0\x0d\0\x0b" * 5_000 + b"\x0b")

    end = Guest().run(loops)

    assert (end.code, end.reason) == (2, "program")
    assert end.error is not None and "s to compile" in end.error


def test_a_module_cannot_be_text():
    assert Guest().run(b'(module (func (export "_start")))').code == 2
    assert bytes(wat2wasm("(module)")) == b"\0asm\1\0\0\0"
