"""The same in WebAssembly: modules that take, spin and reach, in their own confined process."""

import pytest
from wasmtime import wat2wasm

from tests.attacks.arena import How
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.client import Program

SHORT = How(ResourceLimits(cpu_s=1.0))
SMALL = How(ResourceLimits(memory_bytes=128 << 20))


def module(body: str, more: str = "") -> Program:
    """A module whose start is `body`."""
    imports = """
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"""
    text = f'(module {imports if "$" in body else ""} (memory (export "memory") 1) {more} (func (export "_start") {body}))'
    return Program(code=bytes(wat2wasm(text)), name="attack.wasm")


def leb(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_memory_grow_ends_at_the_limit(arena):
    grow = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (call $exit (i32.const 7))"

    assert arena.run(module(grow), how=SMALL).code == 7


def test_table_grow_ends_at_the_limit(arena):
    grow = "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1)))) (call $exit (i32.const 7))"

    assert arena.run(module(grow, "(table $t 1 funcref)"), how=SMALL).code == 7


@pytest.mark.parametrize("part", ["start function", "main"])
def test_an_endless_module_ends_when_its_cpu_time_is_spent(arena, part):
    if part == "main":
        endless = module("(loop (br 0))")
    else:
        text = '(module (func $f (loop (br 0))) (start $f) (func (export "_start")))'
        endless = Program(code=bytes(wat2wasm(text)), name="start.wasm")

    outcome = arena.run(endless, how=SHORT)

    assert (outcome.code, outcome.reason) == (124, "limit")


def test_endless_recursion_is_a_trap(arena):
    outcome = arena.run(module("(call $f)", "(func $f (call $f))"))

    assert outcome.code in (1, 134) and outcome.reason in ("exception", "signal")


def test_a_compile_bomb_is_refused_or_ends_its_own_process(arena):
    body = leb(0) + b"\x41\x00\x45" * 200_000 + b"\x1a\x0b"  # i32.const 0, i32.eqz, ... left on the stack; then end
    bodies = b"".join(leb(len(body)) + body for _ in range(4))
    head = b"\0asm\1\0\0\0" + b"\1\4\1\x60\0\0" + b"\3\5\4\0\0\0\0" + b"\7\x0a\1\6_start\0\0"
    code = head + b"\x0a" + leb(len(bodies) + 1) + b"\4" + bodies

    outcome = arena.run(Program(code=code, name="bomb.wasm"), how=SHORT)

    assert (outcome.code, outcome.reason) in ((-1, "ENOEXEC"), (2, "program"), (124, "limit"), (137, "limit"))


def test_what_is_no_module_is_refused(arena):
    outcome = arena.run(Program(code=b"\0asm\1\0\0\0" + b"\xff" * 1000, name="broken.wasm"))

    assert (outcome.code, outcome.reason) in ((-1, "ENOEXEC"), (2, "program"))


def test_no_file_can_be_opened(arena):
    opening = """
      (call $exit (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 11) (i32.const 0)
                  (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 16)))"""

    outcome = arena.run(module(opening, '(data (i32.const 1024) "/etc/passwd")'))

    assert outcome.code not in (0, -1) and outcome.reason in ("exit", "program", "exception")


def test_reading_beyond_the_memory_is_a_trap(arena):
    outcome = arena.run(module("(drop (i32.load (i32.const 2147483647)))"))

    assert (outcome.code, outcome.reason) == (1, "exception")
