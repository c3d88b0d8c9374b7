"""Questions over popular documents, more than the cache holds (benchmarks/documents.py).

100 documents by Zipf's law. For a program each is a named KV file, of which it forks; for a client each is a prompt's beginning.
Both sides have seen all of them once. Measured is the time to the first token. RAGCache (arXiv 2404.12457). On the small real
model: on the tiny one a question takes less than the start of its program.
"""

from __future__ import annotations

from benchmarks.apart import run_apart
from benchmarks.players import Client, Programs
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.stats import median
from benchmarks.traced import SCALE, Side, in_turns, machine, pages_for, saturation, tell
from vllm_symphony.simulate.trace import Trace
from vllm_symphony.simulate.workload import Shape, generate

PRESSURE, LOAD = 2.0, 0.7
SEEDS, TUNED_ON = (121, 122, 123), 3


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report, count = Report("documents"), 60 if is_quick else 200
    with machine(model, pages_for(trace(TUNED_ON, 400, 10.0), PRESSURE)) as rig:
        rate = LOAD * saturation(rig, trace(TUNED_ON, count, 0.0))
        sides: dict[str, Side] = {"vLLM": Client(rig), "programs": Programs(rig, is_timed=True)}
        sides["programs"].play(trace(TUNED_ON, count // 4, rate))
        found = in_turns(sides, [trace(seed, count, rate) for seed in SEEDS[: 1 if is_quick else 3]])
        report.settings = rig.settings() | {"rate": rate, "load": LOAD, "pressure": PRESSURE, "questions": count}
    tell(report, "first token s", found, lambda play: play.first_s, "vLLM")
    pairs = list(zip(found["programs"], found["vLLM"], strict=True))
    report.figures["ttft_gain"] = median([base.first_s / ours.first_s for ours, base in pairs])
    report.figures["ttft_gain_of_medians"] = median([median(base.firsts_s) / median(ours.firsts_s) for ours, base in pairs])
    return report


def trace(seed: int, count: int, rate: float) -> Trace:
    return generate("documents", Shape(count, rate=rate, scale=SCALE, seed=seed))
