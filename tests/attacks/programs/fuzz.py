"""Random system calls from inside: any number, any arguments, until the alarm or whatever they lead to."""

import ctypes
import os
import random
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
MEMORY = ctypes.create_string_buffer(1 << 16)


def argument(rng: random.Random) -> int:
    base = ctypes.addressof(MEMORY)
    return rng.choice(
        (
            rng.randrange(8), rng.randrange(70), rng.getrandbits(12), rng.getrandbits(32), rng.getrandbits(63), -rng.randrange(10),
            os.getpid(), os.getppid(), 1, 0, base + rng.randrange(1 << 15), base,
        )
    )  # fmt: skip


async def main(seed: int, leave_out: list, top: int, seconds: float):
    """Numbers from 0 to `top` but those that would only end or stop this process."""
    rng, skipped = random.Random(seed), set(leave_out)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    paths = (b"/etc/passwd\0", b"/proc/self/mem\0", b"/\0", b"/dev/null\0", b"..\0", b"\0abstract")
    num = 0
    while True:
        number = rng.randrange(top)
        if number in skipped:
            continue
        MEMORY[:64] = rng.randbytes(64)
        path = rng.choice(paths)
        MEMORY[: len(path)] = path
        num += 1
        if num % 50 == 0:
            sys.stdout.write(".")
            sys.stdout.flush()
        libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument(rng)) for _ in range(6)))
