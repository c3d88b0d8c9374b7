"""What clients cost those who decode (benchmarks/interference.py).

8 programs stream without end. Quiet phases and loud ones take turns; in a loud one a client in another process sends 500 pings/s
through the edge and launches 20 programs/s. The rate is counted where it cannot lie: rows that the engine computed, from one step's
end to another's; only the streams use the model.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from benchmarks.apart import Failed, run_apart
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Meter, Rig, say
from benchmarks.stats import Pairs, cpu_time_s, median, paired, spread
from benchmarks.streams import NUM_STREAMS, streams

LOAD = {"pings_per_s": 500, "launches_per_s": 20}
BESIDE = {"edge": "benchmarks.edge", "client": "benchmarks.outside", "programs": "vllm_symphony.runtime.zygote"}


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    phase_s, repeats = (4.0, 2) if is_quick else (10.0, 8)
    report = Report("interference")
    meters: dict[str, list[Meter]] = {"quiet": [], "loud": []}
    achieved: list[dict[str, float]] = []
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(model))
        edge = stack.enter_context(rig.edge())
        stack.enter_context(streams(rig))

        def rate(state: str) -> float:
            before = whole_meter(rig)
            time.sleep(phase_s)
            meter = whole_meter(rig) - before
            meters[state].append(meter)
            return meter.counters["rows"] / meter.at

        def loud() -> float:
            with disturbance(rig, edge, achieved):
                return rate("loud")

        say(f"{repeats} pairs of phases of {phase_s:g} s")
        pairs = paired(loud, lambda: rate("quiet"), repeats, warm_up=0)
        report.settings = rig.settings() | {"streams": NUM_STREAMS, "phase_s": phase_s, **LOAD}
    report.rows = [row("loud", pairs.a, meters["loud"]), row("quiet", pairs.b, meters["quiet"])]
    report.samples["interference_ratio"], report.baseline_samples["interference_ratio"] = pairs.a, pairs.b
    report.figures = figures(pairs, achieved)
    return report


def whole_meter(rig: Rig) -> Meter:
    """With the processes beside the host, found by what they run."""
    meter = rig.meter()
    for child in psutil.Process(os.getpid()).children():
        words = child.cmdline()
        for part, module in BESIDE.items():
            if module in words:
                meter.cpu_s[part] = cpu_time_s(child.pid)
    return meter


def figures(pairs: Pairs, achieved: list[dict[str, float]]) -> dict[str, float]:
    """The ratio, and whether the client did what it was told."""
    rates = {name: median([a[name] for a in achieved]) for name in achieved[0]}
    return {"interference_ratio": pairs.ratio, **rates}


def row(state: str, rates: list[float], meters: list[Meter]) -> dict[str, Any]:
    cpu = {part: median([m.cpu_s[part] / m.at * 100 for m in meters]) for part in meters[0].cpu_s if part != "host"}
    return {"phase": state, "tokens/s": median(rates), "spread": spread(rates), **{f"{k} CPU %": v for k, v in cpu.items()}}


@contextmanager
def disturbance(rig: Rig, edge: str, achieved: list[dict[str, float]]) -> Iterator[None]:
    """A client that is loud while inside; what it achieved goes into `achieved`."""
    with rig.helper("benchmarks.outside", "disturb", edge, json.dumps(LOAD)) as process:
        assert process.stdout is not None and process.stdin is not None
        if process.stdout.readline().strip() != "ready":
            raise Failed("the loud client failed")
        time.sleep(0.5)
        yield
        process.stdin.close()
        achieved.append(json.loads(process.stdout.readline()))
