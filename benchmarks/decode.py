"""Decoding by programs against plain vLLM (benchmarks/decode.py).

    small model, 1, 8, 32 programs     fused generate, the same with a predicate that never fires, token by token
                                       against plain requests without log-probabilities on the same engine: ratios of tokens/s
    tiny model, 1 and 32 programs      what a token costs more than plain requests with the same top k: wall, CPU, and where

Programs are real processes. All sides decode the same prompts of one page and one token, whose page is in the prefix cache: each
step computes one token of each. Measured from the first program's beginning to the last token in the last program (plain: from all
requests' arrival to the last token in the engine thread); token by token: while all programs are at it (`Fleet.step`).
`own_over_stock`: plain requests on our scheduler against vLLM's own in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.fleet import Fleet
from benchmarks.plain import PlainSide, StockSide, Timing
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import Pairs, in_rounds, median, spread
from benchmarks.vllm_rig import VllmRig

TOP_K = 20
WAYS = ("fused", "until", "until_entropy", "token")
TOKENS = {1: 48, 8: 32, 32: 16}  # of each program, on the small model
REPEATS = {1: 5, 8: 4, 32: 3}
QUICK_TOKENS = {1: 8, 8: 4, 32: 3}
TINY_TOKENS = {1: 128, 32: 48}
STOCK_SIZES = (1, 8)
PLAIN_TOP_K = "plain, top k"


def run(options: Options) -> Report:
    report = run_apart(measure_ratios, options.model or "small", options.quick, options.host)
    report.take(run_apart(measure_tax, "tiny", options.quick, options.host))
    return report


def measure_ratios(model: str, is_quick: bool, host: str) -> Report:
    """Rates of all ways, in rounds."""
    report = Report("decode")
    tokens = QUICK_TOKENS if is_quick else TOKENS
    with ExitStack() as stack:
        stock = None if is_quick or host != "own" else stack.enter_context(StockSide(model))
        rig = make_rig(model, host)
        stack.enter_context(rig)
        sides = Sides(rig, max(tokens))
        if stock is not None:
            stock.decode(sides.prompts, 1)
        for n, num_tokens in tokens.items():
            say(f"{n} programs of {num_tokens} tokens")
            repeats = 1 if is_quick else REPEATS[n]
            add_rates(report, n, in_rounds({way: sides.of(way, n, num_tokens) for way in ("plain", *WAYS)}, repeats))
            if stock is not None and n in STOCK_SIZES:
                both: dict[str, Callable[[], Timing]] = {
                    "own": sides.of("plain", n, num_tokens),
                    "stock": partial(stock.decode, sides.prompts[:n], num_tokens),
                }
                add_stock(report, n, in_rounds(both, repeats))
        report.settings["small"] = rig.settings() | {"tokens": tokens, "prompt_tokens": len(sides.prompts[0]), "top_k": TOP_K}
    for how in WAYS:
        name = f"{how}_ratio_min"
        report.figures[name] = min(Pairs(report.samples[f"{how}_{n}"], report.baseline_samples[f"{how}_{n}"]).ratio for n in tokens)
    if stock is not None:
        ratios = [Pairs(report.samples[f"own_{n}"], report.baseline_samples[f"own_{n}"]).ratio for n in STOCK_SIZES]
        report.figures["own_over_stock"] = min(ratios)
    return report


def make_rig(model: str, host: str) -> Rig | VllmRig:
    """An engine with the kernel where `--host` says."""
    return VllmRig(model) if host == "vllm" else Rig(model)


class Sides:
    """All ways to decode, on one rig, warm."""

    def __init__(self, rig: Rig | VllmRig, num_prompts: int) -> None:
        self.prompts = rig.prompts(num_prompts, rig.page_size + 1)
        self._plain = rig if isinstance(rig, VllmRig) else PlainSide(rig)
        self._fleet = Fleet(rig)
        self._plain.decode(self.prompts, 1)
        self._fleet.decode(self.prompts, 2, "token")

    def of(self, way: str, n: int, num_tokens: int) -> Callable[[], Timing]:
        """Measure once: `n` programs, or requests, of so many tokens."""
        prompts = self.prompts[:n]
        if way.startswith("plain"):
            return lambda: self._plain.decode(prompts, num_tokens, TOP_K if way == PLAIN_TOP_K else None)
        if way == "token":
            return lambda: self._fleet.step(prompts, num_tokens, TOP_K)
        return lambda: self._fleet.decode(prompts, num_tokens, way)


def add_rates(report: Report, n: int, found: dict[str, list[Timing]]) -> None:
    """A row for each way at `n` programs."""
    plain = [t.rate for t in found["plain"]]
    for way, timings in found.items():
        rates = [t.rate for t in timings]
        pairs = Pairs(rates, plain)
        if way != "plain":
            report.samples[f"{way}_{n}"], report.baseline_samples[f"{way}_{n}"] = rates, plain
        report.rows.append(
            {"model": "small", "n": n, "way": way, "tokens/s": median(rates), "spread": spread(rates), "over plain": pairs.ratio,
             **steps_of(timings)}
        )  # fmt: skip


def add_stock(report: Report, n: int, found: dict[str, list[Timing]]) -> None:
    own, stock = ([t.rate for t in found[side]] for side in ("own", "stock"))
    report.samples[f"own_{n}"], report.baseline_samples[f"own_{n}"] = own, stock
    report.rows.append(
        {"model": "small", "n": n, "way": "stock vLLM", "tokens/s": median(stock), "spread": spread(stock),
         "over plain": 1 / Pairs(own, stock).ratio, "rows/step": None}
    )  # fmt: skip


def steps_of(timings: list[Timing]) -> dict[str, float]:
    """Mean rows of a step that had any."""
    rows = sum(t.meter.counters["rows"] for t in timings if t.meter)
    steps = sum(t.meter.counters["engine_steps"] - t.meter.counters["empty_steps"] for t in timings if t.meter)
    return {"rows/step": rows / steps}


# ---- tiny model: the tax


def measure_tax(model: str, is_quick: bool, host: str) -> Report:
    """What a token costs more than plain vLLM's."""
    report = Report("decode")
    repeats = 2 if is_quick else 8
    table: list[dict[str, Any]] = []
    with make_rig(model, host) as rig:
        sides = Sides(rig, max(TINY_TOKENS))
        for n, num_tokens in TINY_TOKENS.items():
            say(f"{n} programs of {num_tokens} tokens")
            measured = {way: sides.of(way, n, num_tokens) for way in ("plain", PLAIN_TOP_K, "fused", "token")}
            in_rounds(measured, 1)  # warm-up
            found = in_rounds(measured, repeats)
            for way, timings in found.items():
                table.append(row_of_tax(n, way, timings))
            token, base = found["token"], found[PLAIN_TOP_K]
            wall, cpu = f"tax_wall_us_{n}", f"tax_cpu_us_{n}"
            report.samples[wall], report.baseline_samples[wall] = [t.wall_us for t in token], [t.wall_us for t in base]
            report.samples[cpu], report.baseline_samples[cpu] = [t.cpu_us() for t in token], [t.cpu_us() for t in base]
            for name in (wall, cpu):
                both = zip(report.samples[name], report.baseline_samples[name], strict=True)
                report.figures[name] = median([a - b for a, b in both])
        report.settings["tiny"] = rig.settings() | {"tokens": TINY_TOKENS, "top_k": TOP_K}
    report.tables["where a token's time goes, tiny model, us per token (CPU by thread; idle: of the host, wall less CPU)"] = table
    return report


def row_of_tax(n: int, way: str, timings: list[Timing]) -> dict[str, Any]:
    cpu = {part: median([t.cpu_us(part) for t in timings]) for part in ("engine", "reactor", "other")}
    wall = median([t.wall_us for t in timings])
    programs = median([t.program_cpu_s / t.num_tokens * 1e6 for t in timings])
    idle = median([t.wall_us - t.cpu_us() for t in timings])
    return {"n": n, "way": way, "wall": wall, **cpu, "programs": programs, "idle": idle, **steps_of(timings)}
