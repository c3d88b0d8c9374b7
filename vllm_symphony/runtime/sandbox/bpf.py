"""A small assembler for classic BPF, as seccomp reads it (runtime/sandbox/bpf.py).

    code = Assembler()
    code.load(0)                            # A = data[0:4], the number of the system call
    code.jump_if_equal(39, then="yes")      # otherwise: the next instruction
    code.give(REFUSE)
    code.mark("yes")
    code.give(ALLOW)
    code.assemble()                         # bytes, 8 for each instruction: u16 code, u8 jt, u8 jf, u32 k

Jumps go forward only and 255 instructions far at most: the kernel's verifier demands the first, the encoding the second. Both are
errors here, not surprises there.
Source: linux/filter.h, Documentation/networking/filter.rst.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_INSTRUCTION = struct.Struct("=HBBI")
MAX_INSTRUCTIONS = 4096
MAX_JUMP = 255

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_IF_GREATER = 0x25  # BPF_JGT
JUMP_IF_AT_LEAST = 0x35  # BPF_JGE
JUMP_IF_ANY_BIT = 0x45  # BPF_JSET
GIVE = 0x06  # BPF_RET | BPF_K


@dataclass(slots=True)
class _Line:
    code: int
    k: int
    then: str | None = None
    otherwise: str | None = None


@dataclass(slots=True)
class Assembler:
    """Collects instructions and labels; `assemble` gives the program."""

    _lines: list[_Line] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def load(self, offset: int) -> None:
        """A = the word at `offset` of what is looked at."""
        self._lines.append(_Line(LOAD_WORD, offset))

    def mask(self, k: int) -> None:
        """A &= k."""
        self._lines.append(_Line(AND, k))

    def jump(self, code: int, k: int, *, then: str | None = None, otherwise: str | None = None) -> None:
        """Go to a label if A and `k` compare as `code` says, to another if not; None is the next instruction."""
        self._lines.append(_Line(code, k, then, otherwise))

    def jump_if_equal(self, k: int, *, then: str | None = None, otherwise: str | None = None) -> None:
        self.jump(JUMP_IF_EQUAL, k, then=then, otherwise=otherwise)

    def give(self, k: int) -> None:
        """End with this answer."""
        self._lines.append(_Line(GIVE, k))

    def mark(self, label: str) -> None:
        """Name the next instruction. Raises ValueError when the name is taken."""
        if label in self._labels:
            raise ValueError(f"label {label!r} is marked twice")
        self._labels[label] = len(self._lines)

    def assemble(self) -> bytes:
        """The program. Raises ValueError for a jump that cannot be encoded, and for one that is too long."""
        if len(self._lines) > MAX_INSTRUCTIONS:
            raise ValueError(f"{len(self._lines)} instructions: the kernel takes {MAX_INSTRUCTIONS}")
        return b"".join(
            _INSTRUCTION.pack(line.code, self._distance(i, line.then), self._distance(i, line.otherwise), line.k & 0xFFFFFFFF)
            for i, line in enumerate(self._lines)
        )

    def _distance(self, at: int, label: str | None) -> int:
        if label is None:
            return 0
        if label not in self._labels:
            raise ValueError(f"label {label!r} is nowhere")
        distance = self._labels[label] - at - 1
        if not 0 <= distance <= MAX_JUMP or self._labels[label] >= len(self._lines):
            raise ValueError(f"a jump of {distance} instructions to {label!r}: 0 to {MAX_JUMP} can be encoded")
        return distance
