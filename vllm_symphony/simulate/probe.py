"""What a machine can do for a trace, measured by playing it (simulate/probe.py): the scales of `--load` and `--pressure`.

saturation    programs a second when all have arrived at once and nobody waits for a tool: the device is never idle
working set   pages that its programs hold at a time, where there is no end of pages: the 95th percentile
"""

from __future__ import annotations

from dataclasses import replace

from vllm_symphony.simulate.player import Host, Player
from vllm_symphony.simulate.trace import Gap, Trace


def saturation(trace: Trace, host: Host) -> float:
    """Programs a second that the machine can finish."""
    scripts = tuple(replace(s, at_s=0.0, steps=tuple(x for x in s.steps if not isinstance(x, Gap))) for s in trace.scripts)
    return len(scripts) / Player(replace(trace, scripts=scripts), host).play().end_s


def working_set(trace: Trace, host: Host) -> int:
    """Pages."""
    sizes = [
        sum((t.prompt + t.decode) * max(1, t.forks) for t in s.turns) + (s.prefix[1] if s.prefix else 0) for s in trace.scripts
    ]
    room = sum(-(-size // host.page_size) + 1 + s.num_calls for size, s in zip(sizes, trace.scripts, strict=True))
    held = sorted(moment.pages_held for moment in Player(trace, replace(host, num_pages=room)).play().moments)
    return max(1, held[int(len(held) * 0.95)])
