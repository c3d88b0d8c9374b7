"""A one-token forward against a plain decode step, by the length of the context (benchmarks/context.py).

A program forks a long named file and moves the fork token by token: each forward is a request of its own to vLLM, with the file's
pages. Plain vLLM decodes the same tokens in one request. Both contexts are computed once, before anything is measured.
"""

from __future__ import annotations

import itertools
from functools import partial

from benchmarks.apart import run_apart
from benchmarks.plain import PlainSide
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import in_rounds, median, spread

LENGTHS = (128, 1024, 4096, 8000)
QUICK_LENGTHS = (128, 1024)
NUM_TOKENS = 24  # of each measurement


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    lengths: tuple[int, ...] = QUICK_LENGTHS if is_quick else LENGTHS
    if model == "tiny":  # its position limit
        lengths = tuple(n for n in lengths if n < 2000)
    report = Report("context")
    with Rig(model, max_model_len=max(lengths) + 192) as rig:
        session, plain = rig.session, PlainSide(rig)
        longest = rig.prompt(max(lengths))  # a shorter context is a prefix of the longer: computed once in all
        text = source("context")

        def forwards(length: int) -> float:
            child = session.spawn(text, "context", path=f"/tmp/bench-{length}", prompt=longest[:length], num_forwards=NUM_TOKENS)
            session.wait(child)
            return median(child.value())

        def steps(length: int) -> float:
            arrivals = plain.decode([longest[:length]], NUM_TOKENS + 1).arrivals
            return median([b - a for a, b in itertools.pairwise(arrivals)])

        ratios = []
        for length in lengths:
            say(f"{length} tokens: computing the context")
            sides = {"forward": partial(forwards, length), "decode": partial(steps, length)}
            in_rounds(sides, 1)
            say(f"{length} tokens: measuring")
            found = in_rounds(sides, 2 if is_quick else 7)
            forward_ms, decode_ms = ([s * 1e3 for s in found[side]] for side in ("forward", "decode"))
            report.samples[f"forward_{length}"], report.baseline_samples[f"forward_{length}"] = forward_ms, decode_ms
            ratios.append(median([a / b for a, b in zip(forward_ms, decode_ms, strict=True)]))
            report.rows.append(
                {"context": length, "forward ms": median(forward_ms), "decode step ms": median(decode_ms), "ratio": ratios[-1],
                 "spread": spread(forward_ms), "decode spread": spread(decode_ms)}
            )  # fmt: skip
        for length in lengths:
            session.remove(f"/tmp/bench-{length}")
        report.settings = rig.settings() | {"num_tokens": NUM_TOKENS}
    report.figures["forward_over_decode_max"] = max(ratios)
    return report
