"""Plain streams and token-by-token programs on one engine (benchmarks/mixed.py).

    baseline   32 plain streams over HTTP
    mixed      16 plain streams over HTTP beside 16 programs that forward a token at a time, on the same server

Both count tokens in a window in which all of them run: from the last one's first token to the first one's last. `mixed_ratio` is
the mix's rate over the baseline's; `share_min` the smaller side's part of the mix over its weight's part (1 is exactly fair).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.apart import Failed, run_apart
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import say
from benchmarks.session import Child
from benchmarks.stats import Pairs, in_rounds, median, spread
from benchmarks.web import WebServer

EACH = 16
PROMPT_TOKENS = 64
TOKENS, QUICK_TOKENS = {"tiny": 256, "small": 64}, {"tiny": 64, "small": 12}
REPEATS, QUICK_REPEATS = 6, 2
VOCABULARY = (100, 1000)
_GATES = itertools.count(1)


@dataclass(frozen=True)
class Mix:
    """Tokens of both sides within `seconds`, in which all ran."""

    plain: int
    programs: int
    seconds: float

    @property
    def rate(self) -> float:
        return (self.plain + self.programs) / self.seconds

    @property
    def plain_share(self) -> float:
        return self.plain / (self.plain + self.programs)


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report = Report("mixed")
    rng = random.Random(1)
    num_tokens = (QUICK_TOKENS if is_quick else TOKENS)["tiny" if model == "tiny" else "small"]
    prompts = [[rng.randrange(*VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(2 * EACH)]
    with WebServer(model, with_symphony=True) as server:
        sides = {
            "32 plain": lambda: all_plain(server, prompts, num_tokens),
            "16 + 16": lambda: mixed(server, prompts[:EACH], prompts[EACH:], num_tokens),
        }
        in_rounds(sides, 1)
        say(f"{EACH} streams beside {EACH} programs, {num_tokens} tokens each")
        found = in_rounds(sides, QUICK_REPEATS if is_quick else REPEATS)
    for name, mixes in found.items():
        report.rows.append(
            {"what": name, "tokens/s": median([m.rate for m in mixes]), "spread": spread([m.rate for m in mixes]),
             "plain share": median([m.plain_share for m in mixes])}
        )  # fmt: skip
    ours, base = [m.rate for m in found["16 + 16"]], [m.rate for m in found["32 plain"]]
    report.samples["mixed"], report.baseline_samples["mixed"] = ours, base
    report.figures["mixed_ratio"] = Pairs(ours, base).ratio
    shares = [m.plain_share for m in found["16 + 16"]]
    report.samples["plain_share"] = shares
    report.figures["share_min"] = min(median(shares), 1 - median(shares)) / 0.5
    report.settings = {"model": model, "tokens": num_tokens, "prompt_tokens": PROMPT_TOKENS, "each": EACH}
    return report


def all_plain(server: WebServer, prompts: Sequence[Sequence[int]], num_tokens: int) -> Mix:
    arrivals = server.decode(prompts, num_tokens).arrivals
    began, ended = max(a[0] for a in arrivals), min(a[-1] for a in arrivals)
    return Mix(_within(arrivals, began, ended), 0, ended - began)


def mixed(server: WebServer, plain: Sequence[Sequence[int]], programs: Sequence[Sequence[int]], num_tokens: int) -> Mix:
    """Both begin together; each program says when each of its tokens came."""
    session, text, gate = server.session, source("steps"), f"/tmp/bench-mix-{next(_GATES)}"
    children = [session.spawn(text, "steps", prompt=list(p), num_tokens=num_tokens, gate=gate) for p in programs]
    session.pump(lambda: all(c.emitted or c.exit for c in children))
    streams: list[list[list[float]]] = []
    thread = threading.Thread(target=lambda: streams.append(asyncio.run(server.stream(plain, num_tokens)).arrivals))
    thread.start()
    gate_fd = session.create(gate)
    session.wait(*children)
    session.remove(gate, gate_fd)
    thread.join()
    if not streams:
        raise Failed("the plain streams failed")
    times = [_times(child) for child in children]
    began = max(a[0] for a in (*streams[0], *times))
    ended = min(a[-1] for a in (*streams[0], *times))
    if ended <= began:
        raise Failed("plain streams and programs never ran all together: give them more tokens")
    return Mix(_within(streams[0], began, ended), _within(times, began, ended), ended - began)


def _times(child: Child) -> list[float]:
    child.value()
    times: list[float] = child.emitted[-1]
    return times


def _within(arrivals: Sequence[Sequence[float]], began: float, ended: float) -> int:
    return sum(began < at <= ended for each in arrivals for at in each)
