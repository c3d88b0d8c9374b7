"""What bad programs cost their neighbours (benchmarks/isolation.py).

One well-behaved program decodes token by token; a client in another process pings through the edge, 50 times a second. Beside them
run, in turns, 4 programs that spin (two in bytecode, two inside C) and 3 that flood the kernel with control calls, or as many idle
ones. The rate is counted where it cannot lie: rows that the engine computed; only the good program uses the model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.apart import Failed, run_apart
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import paired, percentile, spread

NUM_SPINNING, NUM_FLOODING = 4, 3
PINGS_PER_S = 50


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    phase_s, repeats = (4.0, 2) if is_quick else (8.0, 6)
    report = Report("isolation")
    pings: dict[str, list[float]] = {"bad": [], "idle": []}
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(model))
        edge = stack.enter_context(rig.edge())
        good = rig.session.spawn(source("steps"), "good", prompt=rig.prompt(8))
        rig.session.pump(lambda: bool(good.emitted or good.exit))
        stack.callback(rig.session.kill, good)

        def rate(beside: str) -> float:
            with neighbours(rig, beside), pinging(rig, edge, pings[beside]):
                before = rig.meter()
                time.sleep(phase_s)
                meter = rig.meter() - before
            return meter.counters["rows"] / meter.at

        say(f"{repeats} pairs of phases of {phase_s:g} s")
        pairs = paired(lambda: rate("bad"), lambda: rate("idle"), repeats)
        if good.exit is not None:
            raise Failed(f"the good program ended: {good.exit}")
        report.settings = rig.settings() | {
            "spinning": NUM_SPINNING, "flooding": NUM_FLOODING, "phase_s": phase_s, "pings_per_s": PINGS_PER_S,
        }  # fmt: skip
    report.rows = [row("bad", pairs.a, pings["bad"]), row("idle", pairs.b, pings["idle"])]
    report.samples["decode_ratio"], report.baseline_samples["decode_ratio"] = pairs.a, pairs.b
    report.samples["ping_ms"], report.baseline_samples["ping_ms"] = pings["bad"], pings["idle"]
    report.figures = {"decode_ratio": pairs.ratio, "ping_p99_ms": percentile(pings["bad"], 99)}
    return report


def row(beside: str, rates: list[float], pings: list[float]) -> dict[str, Any]:
    return {
        "beside": f"{NUM_SPINNING + NUM_FLOODING} {beside} programs", "tokens/s": percentile(rates, 50), "spread": spread(rates),
        "pings": len(pings), "ping p50 ms": percentile(pings, 50), "p99": percentile(pings, 99), "max": max(pings),
    }  # fmt: skip


@contextmanager
def neighbours(rig: Rig, beside: str) -> Iterator[None]:
    """Inside, all of them run."""
    session = rig.session
    if beside == "bad":
        children = [session.spawn(source("spin"), "spin", in_c=i % 2 == 1) for i in range(NUM_SPINNING)]
        children += [session.spawn(source("flood"), "flood") for _ in range(NUM_FLOODING)]
    else:
        children = [session.spawn(source("idle"), "idle") for _ in range(NUM_SPINNING + NUM_FLOODING)]
    try:
        session.pump(lambda: all(c.emitted or c.exit for c in children))
        yield
        session.pump(lambda: True)
        if any(c.exit for c in children):
            raise Failed(f"a neighbour ended: {[(c.exit, c.printed) for c in children if c.exit]}")
    finally:
        session.kill(*children)


@contextmanager
def pinging(rig: Rig, edge: str, into: list[float]) -> Iterator[None]:
    """A client that pings while inside; milliseconds of each go into `into`."""
    with rig.helper("benchmarks.outside", "ping", edge, json.dumps({"per_s": PINGS_PER_S})) as process:
        assert process.stdout is not None and process.stdin is not None
        if process.stdout.readline().strip() != "ready":
            raise Failed("the pinging client failed")
        yield
        process.stdin.close()
        into.extend(json.loads(process.stdout.readline()))
