"""Programs of three kinds together (benchmarks/mix.py): chat, function calling, tree search, as they arrive.

Arrivals are Poisson at 0.9 of what an ordinary client is served when it asks for as much as it can get; then at 1.2 of it, where
more and more wait; then at 0.9 with half of the memory that they would hold. A program's latency is what the server makes it wait:
from its arrival to its end without what its own tools and users take. Autellix (arXiv 2502.13965).
"""

from __future__ import annotations

from benchmarks.apart import run_apart
from benchmarks.players import Client, Programs
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.stats import median, percentile
from benchmarks.traced import SCALE, Side, in_turns, machine, pages_for, saturation, tell, with_gaps
from vllm_symphony.simulate.trace import Trace
from vllm_symphony.simulate.workload import Shape, generate

CASES = {"": (None, 0.9), "_load1.2": (None, 1.2), "_pressure2": (2.0, 0.9)}  # pressure (None: memory is not short), load
SEEDS, TUNED_ON = (101, 102, 103), 1
NOMINAL_RATE = 5.0  # programs a second, where only the number of pages hangs on it


def run(options: Options) -> Report:
    report = Report("mix")
    for case in CASES:
        report.take(run_apart(measure, options.model or "tiny", options.quick, case))
    return report


def measure(model: str, is_quick: bool, case: str) -> Report:
    report, count = Report("mix"), 60 if is_quick else 200
    pressure, load = CASES[case]
    pages = pages_for(trace(TUNED_ON, count, NOMINAL_RATE), pressure) if pressure is not None else None
    with machine(model, pages) as rig:
        rate = load * saturation(rig, trace(TUNED_ON, count, 0.0))
        sides: dict[str, Side] = {
            "vLLM fcfs": Client(rig), "vLLM priority": Client(rig, by_priority=True), "programs": Programs(rig)
        }  # fmt: skip
        sides["programs"].play(trace(TUNED_ON, count // 2, rate))  # what is learned online is learned on other programs
        found = in_turns(sides, [trace(seed, count, rate) for seed in SEEDS[: 1 if is_quick else 3]])
        report.settings[f"mix{case}"] = rig.settings() | {"rate": rate, "load": load, "pressure": pressure, "programs": count}
    tell(report, f"latency{case}, s", found, lambda play: play.waited_s, "vLLM fcfs")
    ours, base, by_priority = found["programs"], found["vLLM fcfs"], found["vLLM priority"]
    report.figures[f"mean_latency_gain{case}"] = median([b.waited_s / o.waited_s for o, b in zip(ours, base, strict=True)])
    report.figures[f"p95_latency_gain{case}"] = median(
        [percentile(b.waits_s, 95) / percentile(o.waits_s, 95) for o, b in zip(ours, base, strict=True)]
    )
    report.figures[f"gain_over_priority{case}"] = median([b.waited_s / o.waited_s for o, b in zip(ours, by_priority, strict=True)])
    return report


def trace(seed: int, count: int, rate: float) -> Trace:
    return with_gaps(generate("mix", Shape(count, rate=rate, scale=SCALE, seed=seed)), 1 / SCALE)
