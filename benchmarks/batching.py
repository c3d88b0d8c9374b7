"""How well the batch former groups programs that step together (benchmarks/batching.py).

32 programs, token by token      a *round* is one token of each: one engine step if nobody is late
8 and 128 of them                the same
one of them is 50 ms late        each time: what the others lose by it
one program, token by token      what the wait for others costs when there are none: window on and off, in turns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.apart import run_apart
from benchmarks.fleet import Fleet
from benchmarks.plain import PlainSide, Timing
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import Pairs, in_rounds, median, paired, spread
from benchmarks.vllm_rig import VllmRig
from vllm_symphony.kernel.sched.batch.cohort import WINDOW_S

NUM_PROGRAMS = 32
OTHER_SIZES = (8, 128)
LATE_S = 0.05
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
        many = rig.prompts(max(OTHER_SIZES), rig.page_size + 1)
        prompts = many[:NUM_PROGRAMS]
        fleet.decode(many, 2, "token")
        plain.decode(prompts, 1)
        window_s = WINDOW_S

        def programs(how_long_s: float, n: int, num_tokens: int) -> Timing:
            rig.set_window(how_long_s)
            try:
                return fleet.step(many[:n], num_tokens)
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
        sizes = {n: sides(programs, window_s, n, rounds, 1 if is_quick else 3) for n in OTHER_SIZES}
        say("one program that is late")
        late = {n: beside_a_late_one(fleet, many[:n], rounds, 2 if is_quick else 5) for n in (8, NUM_PROGRAMS, 128)}
        say("one program")
        lone = sides(programs, window_s, 1, lone_tokens, 2 if is_quick else 8)
        report.settings = rig.settings() | {"programs": NUM_PROGRAMS, "rounds": rounds, "lone_tokens": lone_tokens}
    for n, ways in ((NUM_PROGRAMS, found), *sizes.items(), (1, lone)):
        report.rows += [row(n, way, timings) for way, timings in ways.items()]
    steps = {way: [steps_of(t) / rounds_of(t, NUM_PROGRAMS) for t in timings] for way, timings in found.items()}
    report.samples["steps_per_round"], report.baseline_samples["steps_per_round"] = steps["window on"], steps["window off"]
    on, off = ([t.wall_us for t in lone[way]] for way in ("window on", "window off"))
    report.samples["lone_wait_us"], report.baseline_samples["lone_wait_us"] = on, off
    report.figures = {
        "steps_per_round": median(steps["window on"]),
        "steps_per_round_no_window": median(steps["window off"]),
        "mean_rows": median([t.num_tokens / steps_of(t) for t in found["window on"]]),
        "lone_wait_us": median([a - b for a, b in zip(on, off, strict=True)]),
        "beside_a_late_one_min": min(pairs.ratio for pairs in late.values()),
    }
    for n, pairs in late.items():
        report.samples[f"beside_a_late_one_{n}"], report.baseline_samples[f"beside_a_late_one_{n}"] = pairs.a, pairs.b
        report.figures[f"beside_a_late_one_{n}"] = pairs.ratio
    return report


def sides(
    programs: Callable[[float, int, int], Timing], window_s: float, n: int, num_tokens: int, repeats: int
) -> dict[str, list[Timing]]:
    """So many programs, with the window and without."""
    ways = {"window on": lambda: programs(window_s, n, num_tokens), "window off": lambda: programs(0.0, n, num_tokens)}
    return in_rounds(ways, repeats)


def beside_a_late_one(fleet: Fleet, prompts: Sequence[Sequence[int]], num_tokens: int, repeats: int) -> Pairs:
    """The rate of programs of which one is late, against their rate when none is."""
    return paired(lambda: fleet.pace(prompts, num_tokens, LATE_S), lambda: fleet.pace(prompts, num_tokens, 0.0), repeats)


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
