"""A fuzzer of system calls in the sandbox: whatever it makes of its own process, nothing else is touched and nothing is left."""

import os
import time

from tests.attacks.arena import How, program
from tests.counts import count, seed_for
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.client import Program
from vllm_symphony.runtime.sandbox import policy
from vllm_symphony.runtime.sandbox.syscall_table import here

SECONDS = count(6, 300)
ROUND_S = 1.0
AT_ONCE = 4
TOP = 512
ENDING = ("exit", "exit_group", "pause", "rt_sigsuspend", "rt_sigreturn", "futex", "munmap", "mremap", "brk", "rt_sigtimedwait")
QUIETING = ("rt_sigprocmask", "rt_sigaction", "setitimer", "alarm", "signalfd4")  # the alarm would not come
LIMITS = How(ResourceLimits(wall_s=4.0, memory_bytes=128 << 20))


def test_random_system_calls_touch_nothing_outside(arena):
    numbers = here().numbers
    end, rounds, printed = time.monotonic() + SECONDS, 0, 0
    watched = ("/etc", "/", str(arena.run_dir))
    before = {path: set(os.listdir(path)) for path in watched}

    while time.monotonic() < end:
        fuzzers = []
        for i in range(AT_ONCE):
            fatal = [numbers[name] for name in policy.FATAL if name in numbers] if (rounds + i) % 4 else []
            names = (*ENDING, *QUIETING) if (rounds + i) % 5 else ENDING
            left_out = [*fatal, *(numbers[name] for name in names if name in numbers)]
            args = {"seed": seed_for(f"fuzz {rounds} {i}"), "leave_out": left_out, "top": TOP, "seconds": ROUND_S}
            fuzzers.append(Program(program("fuzz", "main").source, "main", f"fuzz{i}.py", args=args))
        outcomes = arena.run_all(fuzzers, how=LIMITS)
        assert all(outcome.code != 0 for outcome in outcomes), outcomes
        printed += sum(outcome.printed.count(".") for outcome in outcomes)
        rounds += 1

    assert rounds >= 1 and printed * 50 > 1000, f"{printed * 50} calls in {rounds} rounds"
    assert {path: set(os.listdir(path)) for path in watched} == before
