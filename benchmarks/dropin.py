"""What vLLM's users lose by having Symphony loaded, while no program runs (benchmarks/dropin.py).

    vLLM's own launch line  |  the same with VLLM_PLUGINS=symphony: kernel in its engine, edge beside, nobody uses it
    1, 8, 32 streams over HTTP, in turns: tokens/s, time to the first token, time between tokens, CPU of the whole server

Two servers live all the time; the one that is not asked sleeps. Each round measures both, next to each other, in changing order.
"""

from __future__ import annotations

import random
from functools import partial

from benchmarks.apart import run_apart
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import say
from benchmarks.stats import Pairs, in_rounds, median, spread
from benchmarks.web import KV_CACHE_BYTES, MAX_MODEL_LEN, Streamed, WebServer

PROMPT_TOKENS = 64
TOKENS = {1: 64, 8: 32, 32: 16}  # of each stream
REPEATS = {1: 7, 8: 6, 32: 5}
QUICK_TOKENS, QUICK_REPEATS = {1: 24, 8: 12, 32: 6}, 2
VOCABULARY = (100, 1000)  # token ids that both models have


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report = Report("dropin")
    rng = random.Random(1)
    tokens = QUICK_TOKENS if is_quick else TOKENS
    with WebServer(model) as plain, WebServer(model, with_symphony=True) as ours:
        for n, num_tokens in tokens.items():
            say(f"{n} streams of {num_tokens} tokens")
            prompts = [[rng.randrange(*VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(n)]
            sides = {"symphony": partial(ours.decode, prompts, num_tokens), "vLLM": partial(plain.decode, prompts, num_tokens)}
            in_rounds(sides, 1)  # warm-up; prompts are in both prefix caches from here on
            add(report, n, in_rounds(sides, QUICK_REPEATS if is_quick else REPEATS[n]))
        report.figures["memory_added_mib"] = (ours.memory_bytes - plain.memory_bytes) / (1 << 20)
    kinds = ("rate", "ttft", "itl")
    ratios = {f"{kind}_{n}": report.figures[f"{kind}_ratio_{n}"] for n in tokens for kind in kinds}
    report.figures["ratio_min"] = min(ratios.values())
    report.figures["throughput_ratio_min"] = min(report.figures[f"rate_ratio_{n}"] for n in tokens)
    report.settings = {
        "model": model, "prompt_tokens": PROMPT_TOKENS, "tokens": tokens, "max_model_len": MAX_MODEL_LEN,
        "kv_cache_bytes": KV_CACHE_BYTES, "prefix_caching": True,
    }  # fmt: skip
    report.notes.append(
        "ratios above 1: better with Symphony; latencies are turned over for that. ratio_min is the worst of all nine"
    )
    return report


def add(report: Report, n: int, found: dict[str, list[Streamed]]) -> None:
    """Rows and ratios at `n` streams."""
    ours, plain = found["symphony"], found["vLLM"]
    for name, samples in found.items():
        rates = [s.rate for s in samples]
        report.rows.append(
            {"streams": n, "server": name, "tokens/s": median(rates), "spread": spread(rates),
             "ttft ms": median([s.ttft_s * 1e3 for s in samples]), "itl ms": median([s.itl_s * 1e3 for s in samples]),
             "CPU us/token": median([s.cpu_s / s.num_tokens * 1e6 for s in samples])}
        )  # fmt: skip
    pairs = {
        "rate": Pairs([s.rate for s in ours], [s.rate for s in plain]),
        "ttft": Pairs([1 / s.ttft_s for s in ours], [1 / s.ttft_s for s in plain]),
        "itl": Pairs([1 / s.itl_s for s in ours], [1 / s.itl_s for s in plain]),
        "cpu": Pairs([1 / s.cpu_s for s in ours], [1 / s.cpu_s for s in plain]),
    }
    for kind, pair in pairs.items():
        report.figures[f"{kind}_ratio_{n}"] = pair.ratio
        report.samples[f"{kind}_{n}"], report.baseline_samples[f"{kind}_{n}"] = pair.a, pair.b
