"""Traces of programs on one engine, by programs and by an ordinary client of plain vLLM (benchmarks/traced.py).

    generator --seed--> trace --pages_for--> machine --saturation--> arrivals --in_turns--> Play of each side (players.py) --> table

Lengths are divided by 8 for the tiny model, and so are the times that tools take: they keep their relation to the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.players import Client, Play, Programs
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import median, percentile, spread
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.simulate.player import Host
from vllm_symphony.simulate.probe import working_set
from vllm_symphony.simulate.steptime import StepTime
from vllm_symphony.simulate.trace import Gap, Script, Trace

TOOLS = Path(__file__).parent / "tools" / "tools.toml"
KV_BYTES = 2 << 30
LONGEST = 2048  # tokens of a context, for the tiny model
SCALE = 8.0
ROWS, TOKENS, PAGE_SIZE = 16, 512, 32
# what steps of the tiny model take on two slow cores (calibrate.py); it says how many pages a trace holds at a time
STEP_TIME = StepTime(0.004, 2e-4, 2e-5, 2e-8, 1e-9)


@contextmanager
def machine(model: str, pages: int | None = None) -> Iterator[Rig]:
    """An engine for traces, with tools, and below the device what `symphony serve` gives it. `pages`: of KV; None: no end of
    them."""
    more: dict[str, int] = {}
    if pages is not None:
        longest = min(LONGEST, pages * PAGE_SIZE)
        more = {"num_gpu_blocks_override": pages + 1, "kv_cache_memory_bytes": KV_BYTES, "max_model_len": longest}
    tiers = TierLimits(None, None)
    with Rig(
        model, tiers=tiers, tools=TOOLS, max_num_seqs=ROWS, max_num_batched_tokens=TOKENS, block_size=PAGE_SIZE, **more
    ) as rig:
        yield rig


def pages_for(trace: Trace, pressure: float) -> int:
    """So many that the programs hold `pressure` times as much at a time, by the simulator's word; always enough for the largest."""
    host = Host(num_pages=1 << 20, page_size=PAGE_SIZE, max_rows=ROWS, max_tokens=TOKENS, step_time=STEP_TIME)
    longest = max(sum(t.prompt + t.decode for t in s.turns) + (s.prefix[1] if s.prefix else 0) for s in trace.scripts)
    return max(round(working_set(trace, host) / pressure), -(-longest // PAGE_SIZE) + 8)


def at_once(trace: Trace) -> Trace:
    """All arrive together and nobody waits for a tool: what the machine can do."""
    scripts = (replace(s, at_s=0.0, steps=tuple(step for step in s.steps if not isinstance(step, Gap))) for s in trace.scripts)
    return replace(trace, scripts=tuple(scripts))


def with_gaps(trace: Trace, factor: float) -> Trace:
    """Tools take so many times as long: where texts are shorter than they are in the world, tools are too."""

    def scaled(script: Script) -> Script:
        return replace(
            script, steps=tuple(replace(s, seconds=s.seconds * factor) if isinstance(s, Gap) else s for s in script.steps)
        )

    return replace(trace, scripts=tuple(map(scaled, trace.scripts)))


Side = Programs | Client


def saturation(rig: Rig, trace: Trace) -> float:
    """Programs a second that an ordinary client is served while there are always enough of them: by the tokens of the middle half,
    for at the end of a play few are left."""
    play = Client(rig).play(at_once(trace))
    first, last = len(play.arrivals) // 4, len(play.arrivals) * 3 // 4
    rate = (last - first) / (play.arrivals[last] - play.arrivals[first])
    return rate * len(play.ran) / len(play.arrivals)


def in_turns(sides: Mapping[str, Side], traces: Sequence[Trace]) -> dict[str, list[Play]]:
    """Each trace by each side, one after another, first one order, then the other; what is learned online is learned before."""
    found: dict[str, list[Play]] = {name: [] for name in sides}
    for i, trace in enumerate(traces):
        for name in list(sides)[:: 1 if i % 2 == 0 else -1]:
            say(f"{trace.name}, seed {trace.seed}: {name}")
            found[name].append(sides[name].play(trace))
    return found


def tell(report: Report, what: str, found: Mapping[str, Sequence[Play]], value: Callable[[Play], float], base: str) -> None:
    """A row of the table for each side, and the raw samples."""
    for name, plays in found.items():
        values, others = [value(p) for p in plays], [value(p) for p in found[base]]
        waits = sorted(r.waited_s for p in plays for r in p.ran)
        report.rows.append(
            {
                "what": what, "side": name, "value": median(values), "spread": spread(values) if len(values) > 1 else None,
                "ratio": median([o / v for v, o in zip(values, others, strict=True)]),
                "mean s": median([p.mean_s for p in plays]), "waited s": median([p.waited_s for p in plays]),
                "p95": percentile(waits, 95), "programs/s": median([p.programs_s for p in plays]),
            }
        )  # fmt: skip
        samples = report.baseline_samples if name == base else report.samples
        samples[f"{what}: {name}"] = values
