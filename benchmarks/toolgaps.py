"""Programs that wait for tools while others want their memory (benchmarks/toolgaps.py).

    toolgaps        agents of some forty turns whose tools have long tails           Continuum (arXiv 2511.02230)
    interruptions   six kinds of tools, from microseconds to half a minute           InferCept (arXiv 2402.01869)

All arrive at once; the figure is programs a second, at a KV cache that holds half as much, as much, half and a quarter of what they
would hold together.
"""

from __future__ import annotations

from benchmarks.apart import run_apart
from benchmarks.players import Client, Play, Programs
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.stats import median
from benchmarks.traced import Side, in_turns, machine, pages_for, tell, with_gaps
from vllm_symphony.simulate.trace import Trace
from vllm_symphony.simulate.workload import Shape, generate

PRESSURES = (0.5, 2.0, 4.0)
SCALES = {"toolgaps": 16.0, "interruptions": 8.0}  # forty turns of an eighth would be more than the tiny model can read
SEEDS, TUNED_ON = (111, 112, 113), 2


def run(options: Options) -> Report:
    report = Report("toolgaps")
    for pressure in PRESSURES:
        report.take(run_apart(measure, options.model or "tiny", options.quick, pressure))
    return report


def measure(model: str, is_quick: bool, pressure: float) -> Report:
    report, count = Report("toolgaps"), 24 if is_quick else 64
    gains: list[float] = []
    for name in SCALES:
        traces = [trace(name, seed, count) for seed in SEEDS[: 1 if is_quick else 3]]
        pages = pages_for(traces[0], pressure)
        with machine(model, pages) as rig:
            sides: dict[str, Side] = {"vLLM": Client(rig), "programs": Programs(rig)}
            sides["programs"].play(trace(name, TUNED_ON, count // 4))
            found = in_turns(sides, traces)
            report.settings[f"{name} at {pressure:g}"] = rig.settings()
        tell(report, f"{name} at {pressure:g}, programs/s", found, programs_s, "vLLM")
        gains += [o.programs_s / b.programs_s for o, b in zip(found["programs"], found["vLLM"], strict=True)]
        report.figures[f"{name}_pressure{pressure:g}"] = median(gains[-len(traces) :])
    report.figures[f"throughput_gain_pressure{pressure:g}"] = median(gains)
    return report


def programs_s(play: Play) -> float:
    return play.programs_s


def trace(name: str, seed: int, count: int) -> Trace:
    scale = SCALES[name]
    return with_gaps(generate(name, Shape(count, rate=0.0, scale=scale, seed=seed)), 1 / scale)
