"""The guest's linear memory, as host functions see it (runtime/wasm/memory.py).

Whatever address and length a guest gives, nothing outside of its memory is touched: a range that leaves it is a GuestFault, which
ends the program. The memory is looked up in each call, for it may have moved when it grew.
"""

from __future__ import annotations

import ctypes
import struct

import wasmtime

EXPORT = "memory"
_U32 = 0xFFFF_FFFF


class GuestFault(Exception):
    """The guest broke a rule of the host's functions: it ends, as if it had trapped."""


class Memory:
    """The memory of the caller, during one call. Addresses are i32 as wasm hands them over, signed."""

    __slots__ = ("_address", "_size")

    def __init__(self, caller: wasmtime.Caller) -> None:
        memory = caller.get(EXPORT)
        if not isinstance(memory, wasmtime.Memory):
            raise GuestFault(f'it exports no memory with the name "{EXPORT}"')
        self._size = memory.data_len(caller)
        self._address = ctypes.addressof(memory.data_ptr(caller).contents) if self._size else 0

    def read(self, at: int, size: int) -> bytes:
        """A copy of [at, at + size)."""
        return ctypes.string_at(self._place(at, size), size & _U32)

    def write(self, at: int, data: bytes) -> None:
        ctypes.memmove(self._place(at, len(data)), data, len(data))

    def read_u32s(self, at: int, count: int) -> tuple[int, ...]:
        count &= _U32
        return struct.unpack(f"<{count}I", self.read(at, 4 * count)) if count < self._size else self._refuse(at, 4 * count)

    def write_u32(self, at: int, value: int) -> None:
        self.write(at, (value & _U32).to_bytes(4, "little"))

    def write_u64(self, at: int, value: int) -> None:
        self.write(at, (value & (1 << 64) - 1).to_bytes(8, "little"))

    def _place(self, at: int, size: int) -> int:
        at, size = at & _U32, size & _U32
        if at + size > self._size:
            self._refuse(at, size)
        return self._address + at

    def _refuse(self, at: int, size: int) -> tuple[int, ...]:
        raise GuestFault(f"{size} bytes at {at & _U32} are outside of its memory of {self._size} bytes")
