"""From a program's bytes to a compiled module, within bounds (runtime/wasm/module.py).

Compiling is the one thing that a guest can make us do before its own code can be interrupted, so it is bounded three times:

    before    the module's size, the number of functions, the size of one, and its size times its local variables, for the
              compiler's memory grows with that product
    during    CPU time: it compiles on a thread of its own, which is left behind when it takes too long (14,000 empty loops in
              96 KiB take 15 s), or when TERM comes; the process ends soon after
    after     by the limits of the process like everything else: where it may have less than 256 MiB, the compiler may abort (134)

The engine is set up for a process that may have little address space, must not make memory files, and runs untrusted code once:

    small reservations       of what a memory may be (not 4 GiB), so RLIMIT_AS means something; each access is checked
    no copy-on-write image   it would need memfd_create
    epochs                   a loop asks at its head whether TERM came
    no threads, GC, 64-bit memories, exceptions: less to be wrong
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from collections.abc import Callable, Iterator

import wasmtime

from vllm_symphony.abi.types import WASM_MAGIC
from vllm_symphony.errors import BadProgram
from vllm_symphony.runtime.wasm.transport import small_thread

VERSION = b"\x01\0\0\0"
MAX_MODULE_BYTES = 4 << 20
MAX_FUNCTION_BYTES = 96 << 10
MAX_FUNCTION_COST = 200_000_000  # bytes times local variables
MAX_FUNCTIONS = 50_000
MAX_COMPILE_S = 10.0  # of CPU time
MAX_STACK_BYTES = 512 << 10
COMPILER_STACK_BYTES = 2 << 20
_CODE_SECTION = 10
_M_ARENA_MAX = -8


def make_engine(memory_bytes: int) -> wasmtime.Engine:
    """For guests whose memory may be so large; to be called after the fork."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # an arena for each thread would reserve 64 MiB of address space
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


def check_module(code: bytes, name: str) -> None:
    """Raises BadProgram: it is no module, or larger than what is compiled here; the message is for the user."""
    if code[:4] != WASM_MAGIC or code[4:8] != VERSION:
        raise BadProgram(f"{name} is no core module of WebAssembly 1 (components are not taken)")
    if len(code) > MAX_MODULE_BYTES:
        raise BadProgram(f"{name} has {len(code)} bytes, the limit is {MAX_MODULE_BYTES}: strip it (`wasm-opt -Os --strip-debug`)")
    try:
        bodies = list(_bodies(code))
    except IndexError:
        raise BadProgram(f"{name} does not compile: it ends in the middle of a section") from None
    if len(bodies) > MAX_FUNCTIONS:
        raise BadProgram(f"{name} has {len(bodies)} functions, the limit is {MAX_FUNCTIONS}")
    for size, num_locals in bodies:
        if size > MAX_FUNCTION_BYTES:
            raise BadProgram(f"{name} has a function of {size} bytes, the limit is {MAX_FUNCTION_BYTES}")
        if size * num_locals > MAX_FUNCTION_COST:
            raise BadProgram(f"{name} has a function of {size} bytes with {num_locals} local variables: too much to compile")


def compile_module(engine: wasmtime.Engine, code: bytes, name: str, wait_for: Callable[[int, int, float], bool]) -> wasmtime.Module:
    """Compile what `check_module` let pass. `wait_for(fd, mask, timeout_s)` waits, and may raise: then the work is left behind.

    Raises:
        BadProgram: it is not valid, or takes too long.
    """
    work = _Compilation(engine, code)
    start_s = time.process_time()
    try:
        while not wait_for(work.done, select.POLLIN, 0.5):
            if time.process_time() - start_s > MAX_COMPILE_S:
                raise BadProgram(f"{name} takes more than {MAX_COMPILE_S:.0f} s to compile")
    finally:
        os.close(work.done)
    if isinstance(work.result, wasmtime.Module):
        return work.result
    raise BadProgram(f"{name} does not compile: {explain(work.result)[0]}")


class _Compilation:
    """A compilation on a thread of its own; `done` is readable at its end, and belongs to who waits."""

    def __init__(self, engine: wasmtime.Engine, code: bytes) -> None:
        self.result: wasmtime.Module | wasmtime.WasmtimeError
        self.done, self._end = os.pipe2(os.O_CLOEXEC)
        try:
            small_thread(self._compile, "symphony-compiler", COMPILER_STACK_BYTES, engine, code)
        except BaseException:
            os.close(self.done)
            os.close(self._end)
            raise

    def _compile(self, engine: wasmtime.Engine, code: bytes) -> None:
        try:
            self.result = wasmtime.Module(engine, code)
        except wasmtime.WasmtimeError as e:
            self.result = e
        os.close(self._end)


def explain(error: wasmtime.WasmtimeError | wasmtime.Trap) -> tuple[str, str]:
    """What wasmtime's error says: the cause, on one line, and the guest's backtrace, if there is one."""
    head, _, causes = str(error).strip().partition("\n\nCaused by:\n")
    title, _, backtrace = head.partition("\n")
    if causes and "backtrace" in title:
        return " ".join(causes.split()), backtrace
    return " ".join((head + ": " + causes if causes else head).split()), ""


def _bodies(code: bytes) -> Iterator[tuple[int, int]]:
    """Of each function in the code section: its bytes and its local variables. Raises IndexError when the module is cut off."""
    at = 8
    while at < len(code):
        section, at = code[at], at + 1
        size, at = _number(code, at)
        if section == _CODE_SECTION:
            count, at = _number(code, at)
            for _ in range(count):
                size, at = _number(code, at)
                yield size, _num_locals(code, at, at + size)
                at += size
            return
        at += size


def _num_locals(code: bytes, at: int, end: int) -> int:
    """They stand at the head of a body, which ends at `end`, as runs of one type."""
    num_runs, at = _number(code, at)
    num_locals = 0
    for _ in range(num_runs):
        count, at = _number(code, at)
        num_locals += count
        at += 1
        if at > end:
            raise IndexError("a function is shorter than its local variables")
    return num_locals


def _number(code: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 of at most 32 bits, and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        byte, at = code[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number is too long")
