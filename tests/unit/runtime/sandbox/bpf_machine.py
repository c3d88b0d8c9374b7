"""A classic BPF machine as seccomp has it: what a filter answers, without putting it on."""

import struct

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def answer(code: bytes, *, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """Run a filter on a system call. Raises AssertionError for an instruction that the kernel would not take."""
    padded = [value & (2**64 - 1) for value in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    accumulator, at = 0, 0
    while True:
        op, yes, no, k = struct.unpack_from("=HBBI", code, at * 8)
        at += 1
        match op:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x54:
                accumulator &= k
            case 0x15:
                at += yes if accumulator == k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x45:
                at += yes if accumulator & k else no
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {at - 1} is unknown: {op:#x}")
