"""Small, medium and large programs together: who is served in which order (benchmarks/fair.py).

Map-reduces of three sizes, votes and trees, arriving twice as fast as they can be served. The other side is the same programs under
`vtc`, equal shares for all. `delay_over_bound`: how much later than under equal shares the worst program ends, over what Justitia
allows it: what the largest program takes alone. Justitia (arXiv 2510.17015).
"""

from __future__ import annotations

from benchmarks.apart import run_apart
from benchmarks.players import Client, Play, Programs
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig
from benchmarks.stats import median
from benchmarks.traced import SCALE, Side, in_turns, machine, saturation, tell
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.simulate.trace import Trace
from vllm_symphony.simulate.workload import Shape, generate

LOAD = 2.0
SEEDS, TUNED_ON = (141, 142, 143), 5


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "tiny", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report, count = Report("fair"), 40 if is_quick else 200
    with machine(model) as rig:
        rate = LOAD * saturation(rig, trace(TUNED_ON, count, 0.0))
        sides: dict[str, Side] = {
            "vtc": UnderPolicy(rig, "vtc"),
            "programs": UnderPolicy(rig, catalogue.DEFAULTS[catalogue.PROCESS]),
        }
        sides["programs"].play(trace(TUNED_ON, count, rate))  # costs are predicted by what is learned here
        found = in_turns(sides | {"vLLM fcfs": Client(rig)}, [trace(seed, count, rate) for seed in SEEDS[: 1 if is_quick else 3]])
        report.settings = rig.settings() | {"rate": rate, "load": LOAD, "programs": count}
    tell(report, "completion s", found, lambda play: play.mean_s, "vtc")
    pairs = list(zip(found["programs"], found["vtc"], strict=True))
    report.figures["mean_completion_vs_vtc"] = median([ours.mean_s / base.mean_s for ours, base in pairs])
    report.figures["mean_completion_vs_fcfs"] = median(
        [ours.mean_s / base.mean_s for ours, base in zip(found["programs"], found["vLLM fcfs"], strict=True)]
    )
    report.figures["delay_over_bound"] = max(worst_delay(ours, base) for ours, base in pairs)
    return report


class UnderPolicy(Programs):
    """Programs under a process policy."""

    def __init__(self, rig: Rig, policy: str) -> None:
        super().__init__(rig)
        self._host, self._policy = rig.host, policy

    def play(self, trace: Trace) -> Play:
        self._host.submit([catalogue.parsed(catalogue.PROCESS, self._policy)])
        return super().play(trace)


def worst_delay(ours: Play, base: Play) -> float:
    """The largest delay against equal shares, over the largest program's part of all work."""
    costs = [sum(t.prompt + 2 * t.decode * max(1, t.forks) for t in r.script.turns) for r in base.ran]
    largest_s = base.seconds * max(costs) / sum(costs)
    return max(o.completion_s - b.completion_s for o, b in zip(ours.ran, base.ran, strict=True)) / largest_s


def trace(seed: int, count: int, rate: float) -> Trace:
    return generate("fair", Shape(count, rate=rate, scale=SCALE, seed=seed))
