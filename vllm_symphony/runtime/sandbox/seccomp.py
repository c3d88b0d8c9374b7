"""The policy as a seccomp filter, and putting it on (runtime/sandbox/seccomp.py).

    architecture? --other--> kill       number? --x32--> kill
    by number, in a tree:   FATAL -> kill    ALLOWED -> allow    GUARDED -> look at the arguments    else -> EPERM

What is allowed without a look at its arguments costs nearly nothing: the kernel finds that out once and keeps a bitmap of it.
Arguments are compared as the kernel reads them: its `int` and flag arguments are the low word, a null pointer is both words.
The filter is made once, in the fork server; only the pid of the process is filled in afterwards.
Source: seccomp(2), linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class _Run:
    """Numbers from `start` on that have the same answer: one of the filter's, or a guard by its name."""

    start: int
    answer: int | str


def compile_filter(architecture: Architecture, *, files: bool) -> Filter:
    """The policy for this architecture. `files`: opening is decided elsewhere; else it is refused."""
    code = Assembler()
    code.load(_ARCHITECTURE_AT)
    code.jump_if_equal(architecture.audit, then="ours")
    code.give(KILL)
    code.mark("ours")
    code.load(_NUMBER_AT)
    if architecture.foreign_bit is not None:
        code.jump(JUMP_IF_AT_LEAST, architecture.foreign_bit, otherwise="native")
        code.give(KILL)
        code.mark("native")
    _decide(code, _runs(architecture.numbers, files))
    text, mark = code.assemble(), struct.pack("=I", _PID_MARK)
    return Filter(text, tuple(at + 4 for at in range(0, len(text), 8) if text[at + 4 : at + 8] == mark))


def _runs(numbers: Mapping[str, int], files: bool) -> list[_Run]:
    """All numbers there can be, cut where the answer changes."""
    answers: dict[str, int | str] = {
        **dict.fromkeys(policy.FATAL, KILL),
        **dict.fromkeys((*policy.ALLOWED, *(policy.FILES if files else ())), ALLOW),
        **{name: ERRNO | error for name, error in policy.REFUSED.items()},
        **{name: name for name in policy.GUARDED},
    }
    by_number = {numbers[name]: answer for name, answer in answers.items() if name in numbers}
    runs: list[_Run] = []
    for number in range(max(by_number) + 2):
        answer = by_number.get(number, ERRNO | EPERM)
        if not runs or runs[-1].answer != answer:
            runs.append(_Run(number, answer))
    return runs


def _decide(code: Assembler, runs: Sequence[_Run]) -> None:
    """A tree over the runs: the kernel walks the filter once for every number that it has, each time it is put on."""
    if len(runs) > 1:
        middle = len(runs) // 2
        label = f"from {runs[middle].start}"
        code.jump(JUMP_IF_AT_LEAST, runs[middle].start, then=label)
        _decide(code, runs[:middle])
        code.mark(label)
        _decide(code, runs[middle:])
    elif isinstance(runs[0].answer, str):
        _guard(code, runs[0].answer, policy.GUARDED[runs[0].answer])
    else:
        code.give(runs[0].answer)


def _guard(code: Assembler, name: str, guard: policy.Guard) -> None:
    bad = f"bad {name}"
    for i, check in enumerate(guard.checks):
        _check(code, check, good=f"good {name} {i}", bad=bad)
        code.mark(f"good {name} {i}")
    code.give(ALLOW)
    code.mark(bad)
    code.give(ERRNO | guard.error)


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
