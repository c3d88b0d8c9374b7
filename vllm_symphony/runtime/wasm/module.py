"""From a program's bytes to a compiled module, within bounds (runtime/wasm/module.py).

Compiling is the one thing that a guest can make us do before its own code can be interrupted, so its cost is bounded first: by the
module's size, by the size of its largest function (register allocation grows faster than that), and by the number of functions.
The engine is set up for a process that may have little address space, must not make memory files, and runs untrusted code once:

    small reservations       of what a memory may be (not 4 GiB), so RLIMIT_AS means something; each access is checked
    no copy-on-write image   it would need memfd_create
    epochs                   a loop asks at its head whether TERM came
    no threads, GC, 64-bit memories, exceptions: less to be wrong
"""

from __future__ import annotations

from collections.abc import Iterator

import wasmtime

from vllm_symphony.errors import BadProgram

MAGIC = b"\0asm"
VERSION = b"\x01\0\0\0"
MAX_MODULE_BYTES = 4 << 20
MAX_FUNCTION_BYTES = 256 << 10
MAX_FUNCTIONS = 50_000
MAX_STACK_BYTES = 512 << 10
_CODE_SECTION = 10


def make_engine(memory_bytes: int) -> wasmtime.Engine:
    """For guests whose memory may be so large; to be called after the fork."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.parallel_compilation = False
    config.memory_reservation = memory_bytes
    config.memory_reservation_for_growth = 0
    config.memory_guard_size = 0
    config.memory_init_cow = False
    config.max_wasm_stack = MAX_STACK_BYTES
    config.native_unwind_info = False
    for proposal in ("threads", "memory64", "gc", "function_references", "exceptions", "stack_switching", "custom_page_sizes"):
        setattr(config, f"wasm_{proposal}", False)
    return wasmtime.Engine(config)


def compile_module(engine: wasmtime.Engine, code: bytes, name: str) -> wasmtime.Module:
    """Raises BadProgram: it is no module, too large, or needs what we have not; the message is for the user."""
    if code[:4] != MAGIC or code[4:8] != VERSION:
        raise BadProgram(f"{name} is no core module of WebAssembly 1 (components are not taken)")
    if len(code) > MAX_MODULE_BYTES:
        raise BadProgram(f"{name} has {len(code)} bytes, the limit is {MAX_MODULE_BYTES}: strip it (`wasm-opt -Os --strip-debug`)")
    try:
        sizes = list(function_sizes(code))
    except IndexError:
        raise BadProgram(f"{name} does not compile: it ends in the middle of a section") from None
    if len(sizes) > MAX_FUNCTIONS:
        raise BadProgram(f"{name} has {len(sizes)} functions, the limit is {MAX_FUNCTIONS}")
    if max(sizes, default=0) > MAX_FUNCTION_BYTES:
        raise BadProgram(f"{name} has a function of {max(sizes)} bytes, the limit is {MAX_FUNCTION_BYTES}")
    try:
        return wasmtime.Module(engine, code)
    except wasmtime.WasmtimeError as e:
        raise BadProgram(f"{name} does not compile: {explain(e)[0]}") from None


def explain(error: wasmtime.WasmtimeError | wasmtime.Trap) -> tuple[str, str]:
    """What wasmtime's error says: the cause, on one line, and the guest's backtrace, if there is one."""
    head, _, causes = str(error).strip().partition("\n\nCaused by:\n")
    title, _, backtrace = head.partition("\n")
    if causes and "backtrace" in title:
        return " ".join(causes.split()), backtrace
    return " ".join((head + ": " + causes if causes else head).split()), ""


def function_sizes(code: bytes) -> Iterator[int]:
    """Of the bodies in the code section. Raises IndexError when the module is cut off."""
    at = 8
    while at < len(code):
        section, at = code[at], at + 1
        size, at = _number(code, at)
        if section == _CODE_SECTION:
            count, at = _number(code, at)
            for _ in range(count):
                size, at = _number(code, at)
                yield size
                at += size
            return
        at += size


def _number(code: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 of at most 32 bits, and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        byte, at = code[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number is too long")
