"""Time and randomness (kernel/syscall/clock.py): sleep, now, monotonic, random.

Calls like all others, so that a program that takes them from the kernel can be replayed: time is what the host said, bytes are a
function of the kernel's seed and the pid.
"""

from __future__ import annotations

from math import inf

from vllm_symphony.abi.calls import BytesResult, Done, NoArgs, Random, Sleep, TimeResult
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.timer import after


def sleep(m: Machine, call: Call, a: Sleep) -> Done | None:
    """Answer after so many seconds."""
    if not 0 <= a.seconds < inf:
        raise InvalidArgument(f"seconds must be 0 or more and finite, not {a.seconds}", seconds=a.seconds)
    if a.seconds == 0:
        return Done()
    pending = Pending(call)
    pending.timer = m.timers.at(after(call.start_ns, a.seconds), lambda now_ns: m.finish(call, Done(), now_ns))
    call.pending = pending
    return None


def now(m: Machine, call: Call, a: NoArgs) -> TimeResult:
    """Seconds since the epoch."""
    return TimeResult((call.start_ns + m.offset_ns) / 1e9)


def monotonic(m: Machine, call: Call, a: NoArgs) -> TimeResult:
    """Seconds since the kernel started."""
    return TimeResult((call.start_ns - m.boot_ns) / 1e9)


def random(m: Machine, call: Call, a: Random) -> BytesResult:
    """The process's next random bytes."""
    if not 0 <= a.count <= m.limits.random_bytes:
        raise InvalidArgument(f"count must be in 0..{m.limits.random_bytes}, not {a.count}", count=a.count)
    return BytesResult(call.process.random.take(a.count))
