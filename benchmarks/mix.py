"""Programs of three kinds together (benchmarks/mix.py): chat, function calling, tree search, as they arrive, memory short.

Arrivals are Poisson at 0.9 of what an ordinary client is served when it asks for as much as it can get. A program's latency is
what the server makes it wait: from its arrival to its end without what its own tools and users take. Autellix (arXiv 2502.13965).
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

PRESSURE, LOAD = 2.0, 0.9
SEEDS, TUNED_ON = (101, 102, 103), 1
NOMINAL_RATE = 5.0  # programs a second, where only the number of pages hangs on it


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "tiny", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report, count = Report("mix"), 60 if is_quick else 200
    pages = pages_for(trace(TUNED_ON, count, NOMINAL_RATE), PRESSURE)
    with machine(model, pages) as rig:
        rate = LOAD * saturation(rig, trace(TUNED_ON, count, 0.0))
        sides: dict[str, Side] = {
            "vLLM fcfs": Client(rig),
            "vLLM priority": Client(rig, by_priority=True),
            "programs": Programs(rig),
        }
        sides["programs"].play(trace(TUNED_ON, count // 4, rate))  # what is learned online is learned on other programs
        found = in_turns(sides, [trace(seed, count, rate) for seed in SEEDS[: 1 if is_quick else 3]])
        report.settings = rig.settings() | {"rate": rate, "load": LOAD, "pressure": PRESSURE, "programs": count}
    tell(report, "latency s", found, lambda play: play.waited_s, "vLLM fcfs")
    ours, base = found["programs"], found["vLLM fcfs"]
    report.figures["mean_latency_gain"] = median([b.waited_s / o.waited_s for o, b in zip(ours, base, strict=True)])
    report.figures["p95_latency_gain"] = median(
        [percentile(b.waits_s, 95) / percentile(o.waits_s, 95) for o, b in zip(ours, base, strict=True)]
    )
    by_priority = found["vLLM priority"]
    report.figures["gain_over_priority"] = median([b.waited_s / o.waited_s for o, b in zip(ours, by_priority, strict=True)])
    return report


def trace(seed: int, count: int, rate: float) -> Trace:
    return with_gaps(generate("mix", Shape(count, rate=rate, scale=SCALE, seed=seed)), 1 / SCALE)
