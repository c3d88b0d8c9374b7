"""The policy as a seccomp filter, and putting it on (runtime/sandbox/seccomp.py).

    architecture? --other--> kill       number? --x32--> kill
    FATAL -> kill    ALLOWED -> allow    GUARDED -> look at the arguments    else -> EPERM

What is allowed without a look at its arguments costs nearly nothing: the kernel finds that out once and keeps a bitmap of it.
Arguments are compared as the kernel reads them: its `int` and flag arguments are the low word, a null pointer is both words.
The filter is made once, in the fork server; only the pid of the process is filled in afterwards.
Source: seccomp(2), linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from errno import EFAULT, EPERM

from vllm_symphony.runtime.sandbox import policy
from vllm_symphony.runtime.sandbox.bpf import JUMP_IF_ANY_BIT, JUMP_IF_AT_LEAST, JUMP_IF_GREATER, Assembler
from vllm_symphony.runtime.sandbox.libc import prctl
from vllm_symphony.runtime.sandbox.syscall_table import Architecture

KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PID_MARK = 0x7A5C3B1D  # no pid is as large; replaced by the process's own


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter to put on. `pid_at`: where in `code` the pid of the process belongs."""

    code: bytes
    pid_at: tuple[int, ...]

    def put_on(self, pid: int) -> None:
        """Confine this process, for good. Needs no_new_privs (or CAP_SYS_ADMIN). Raises OSError."""
        code = bytearray(self.code)
        for at in self.pid_at:
            struct.pack_into("=I", code, at, pid)
        buffer = ctypes.create_string_buffer(bytes(code), len(code))
        program = ctypes.create_string_buffer(
            struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
        )  # struct sock_fprog
        prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program))


def compile_filter(architecture: Architecture, *, files: bool) -> Filter:
    """The policy for this architecture. `files`: opening is decided elsewhere; else it is refused."""
    code, numbers = Assembler(), architecture.numbers
    code.load(_ARCHITECTURE_AT)
    code.jump_if_equal(architecture.audit, then="ours")
    code.give(KILL)
    code.mark("ours")
    code.load(_NUMBER_AT)
    if architecture.foreign_bit is not None:
        code.jump(JUMP_IF_AT_LEAST, architecture.foreign_bit, otherwise="native")
        code.give(KILL)
        code.mark("native")
    _answer(code, numbers, [*policy.ALLOWED, *(policy.FILES if files else ())], ALLOW)
    for name, guard in policy.GUARDED.items():
        if name in numbers:
            _guard(code, name, numbers[name], guard)
    for name, error in policy.REFUSED.items():
        _answer(code, numbers, [name], ERRNO | error)
    _answer(code, numbers, policy.FATAL, KILL)
    code.give(ERRNO | EPERM)
    text = code.assemble()
    return Filter(text, tuple(at + 4 for at in range(0, len(text), 8) if text[at + 4 : at + 8] == struct.pack("=I", _PID_MARK)))


def _answer(code: Assembler, numbers: Mapping[str, int], names: Collection[str], answer: int) -> None:
    for name in names:
        if name in numbers:
            code.jump_if_equal(numbers[name], otherwise=f"not {name}")
            code.give(answer)
            code.mark(f"not {name}")


def _guard(code: Assembler, name: str, number: int, guard: policy.Guard) -> None:
    """The number leaves the accumulator only where the answer is given below."""
    bad, end = f"bad {name}", f"not {name}"
    code.jump_if_equal(number, otherwise=end)
    for i, check in enumerate(guard.checks):
        _check(code, check, good=f"good {name} {i}", bad=bad)
        code.mark(f"good {name} {i}")
    code.give(ALLOW)
    if guard.checks:
        code.mark(bad)
        code.give(ERRNO | guard.error)
    code.mark(end)


def _check(code: Assembler, check: policy.Check, *, good: str, bad: str) -> None:
    """Falls through, or jumps to `good`, if the argument passes."""
    low = _ARGUMENTS_AT + 8 * check.arg
    code.load(low)
    if check.kind == "is":
        *first, last = (_PID_MARK if value == policy.OWN_PID else value for value in check.values)
        for value in first:
            code.jump_if_equal(value, then=good)
        code.jump_if_equal(last, otherwise=bad)
    elif check.kind == "has":
        code.mask(check.values[0])
        code.jump_if_equal(check.values[0], otherwise=bad)
    elif check.kind == "lacks":
        code.jump(JUMP_IF_ANY_BIT, check.values[0], then=bad)
    elif check.kind == "most":
        code.jump(JUMP_IF_GREATER, check.values[0], then=bad)
    elif check.kind == "null":
        code.jump_if_equal(0, otherwise=bad)
        code.load(low + 4)
        code.jump_if_equal(0, otherwise=bad)
    else:
        raise ValueError(f"no such check: {check.kind}")


def is_there() -> bool:
    """Whether this kernel has seccomp filters: asked with a program at an address that it cannot read."""
    try:
        prctl(_PR_SET_SECCOMP, _MODE_FILTER, 0)
    except OSError as e:
        return e.errno == EFAULT
    return False
