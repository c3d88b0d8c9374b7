"""How well the batch former groups programs that step together (benchmarks/batching.py).

32 programs, token by token      a *round* is one token of each: one engine step if nobody is late
one program, token by token      what the wait for others costs when there are none: window on and off, in turns
"""

from __future__ import annotations

from benchmarks.apart import run_apart
from benchmarks.fleet import Fleet
from benchmarks.plain import PlainSide, Timing
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import in_rounds, median, spread
from benchmarks.vllm_rig import VllmRig
from vllm_symphony.kernel.sched.batch.cohort import WINDOW_S

NUM_PROGRAMS = 32
ROUNDS, QUICK_ROUNDS = {"tiny": 96, "small": 24}, {"tiny": 32, "small": 4}
LONE_TOKENS, QUICK_LONE_TOKENS = {"tiny": 192, "small": 32}, {"tiny": 64, "small": 8}


def run(options: Options) -> Report:
    return run_apart(measure_at_vllm if options.host == "vllm" else measure, options.model or "small", options.quick)


def measure_at_vllm(model: str, is_quick: bool) -> Report:
    """With the kernel in vLLM's engine process: how many steps a round takes; the window stays as it is there."""
    report = Report("batching")
    rounds = (QUICK_ROUNDS if is_quick else ROUNDS)["tiny" if model == "tiny" else "small"]
    with VllmRig(model) as rig:
        fleet = Fleet(rig)
        prompts = rig.prompts(NUM_PROGRAMS, rig.page_size + 1)
        fleet.decode(prompts, 2, "token")
        rig.decode(prompts, 1)
        say(f"{NUM_PROGRAMS} programs, {rounds} rounds")
        found = in_rounds(
            {"window on": lambda: fleet.step(prompts, rounds), "plain vLLM": lambda: rig.decode(prompts, rounds, 20)},
            1 if is_quick else 3,
        )
        report.settings = rig.settings() | {"programs": NUM_PROGRAMS, "rounds": rounds}
    report.rows += [row(NUM_PROGRAMS, way, timings) for way, timings in found.items()]
    steps = [steps_of(t) / rounds_of(t, NUM_PROGRAMS) for t in found["window on"]]
    report.samples["steps_per_round"] = steps
    report.figures = {
        "steps_per_round": median(steps),
        "mean_rows": median([t.num_tokens / steps_of(t) for t in found["window on"]]),
    }
    return report


def measure(model: str, is_quick: bool) -> Report:
    report = Report("batching")
    size = "tiny" if model == "tiny" else "small"
    rounds = (QUICK_ROUNDS if is_quick else ROUNDS)[size]
    lone_tokens = (QUICK_LONE_TOKENS if is_quick else LONE_TOKENS)[size]
    with Rig(model) as rig:
        fleet, plain = Fleet(rig), PlainSide(rig)
        prompts = rig.prompts(NUM_PROGRAMS, rig.page_size + 1)
        fleet.decode(prompts, 2, "token")
        plain.decode(prompts, 1)
        window_s = WINDOW_S

        def programs(how_long_s: float, n: int, num_tokens: int) -> Timing:
            rig.set_window(how_long_s)
            try:
                return fleet.step(prompts[:n], num_tokens)
            finally:
                rig.set_window(window_s)

        say(f"{NUM_PROGRAMS} programs, {rounds} rounds")
        found = in_rounds(
            {
                "window on": lambda: programs(window_s, NUM_PROGRAMS, rounds),
                "window off": lambda: programs(0.0, NUM_PROGRAMS, rounds),
                "plain vLLM": lambda: plain.decode(prompts, rounds, 20),
            },
            1 if is_quick else 3,
        )
        say("one program")
        lone = in_rounds(
            {"window on": lambda: programs(window_s, 1, lone_tokens), "window off": lambda: programs(0.0, 1, lone_tokens)},
            2 if is_quick else 8,
        )
        report.settings = rig.settings() | {"programs": NUM_PROGRAMS, "rounds": rounds, "lone_tokens": lone_tokens}
    for n, sides in ((NUM_PROGRAMS, found), (1, lone)):
        report.rows += [row(n, way, timings) for way, timings in sides.items()]
    steps = {way: [steps_of(t) / rounds_of(t, NUM_PROGRAMS) for t in timings] for way, timings in found.items()}
    report.samples["steps_per_round"], report.baseline_samples["steps_per_round"] = steps["window on"], steps["window off"]
    on, off = ([t.wall_us for t in lone[way]] for way in ("window on", "window off"))
    report.samples["lone_wait_us"], report.baseline_samples["lone_wait_us"] = on, off
    report.figures = {
        "steps_per_round": median(steps["window on"]),
        "steps_per_round_no_window": median(steps["window off"]),
        "mean_rows": median([t.num_tokens / steps_of(t) for t in found["window on"]]),
        "lone_wait_us": median([a - b for a, b in zip(on, off, strict=True)]),
    }
    return report


def steps_of(timing: Timing) -> float:
    """Steps that computed something."""
    assert timing.meter is not None
    counters = timing.meter.counters
    return counters["engine_steps"] - counters["empty_steps"]


def rounds_of(timing: Timing, n: int) -> float:
    """A round is a token of each of the `n` programs."""
    return timing.num_tokens / n


def row(n: int, way: str, timings: list[Timing]) -> dict[str, float | int | str]:
    def per_round(counter: str) -> float:
        return median([t.meter.counters[counter] / rounds_of(t, n) for t in timings if t.meter])

    return {
        "programs": n,
        "way": way,
        "ms/round": median([t.seconds / rounds_of(t, n) * 1e3 for t in timings]),
        "spread": spread([t.wall_us for t in timings]),
        "steps/round": median([steps_of(t) / rounds_of(t, n) for t in timings]),
        "rows/step": median([t.num_tokens / steps_of(t) for t in timings]),
        "waits/round": per_round("waits"),
        "waited us/round": per_round("waited_s") * 1e6,
    }
