"""What a play showed, in numbers (simulate/summary.py).

completion   from a program's arrival to its end; of those that were killed or failed, none
slowdown     completion / what the same program takes on an idle machine (`alone_s`)
fairness     Jain's index of the principals' mean speeds (1/slowdown): 1 when all are slowed down alike, 1/n when one has all
reuse        of the tokens that had been computed before, how many were still there when a call began
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import ceil, nan
from typing import Any

from vllm_symphony.simulate.player import Host, Outcome, Played
from vllm_symphony.simulate.steptime import Chunk
from vllm_symphony.simulate.trace import Gap, Script, Singles


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one quantity over all programs or calls."""

    mean: float
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Summary:
    """`utilisation`: part of the time in which the device computed; `occupancy`: of its rows while it did; `pages`: of its pages,
    over all the time. Rates are a second of the play. `moved_pages`: to tiers below and back."""

    num_programs: int
    num_failed: int
    seconds: float
    completion_s: Spread
    slowdown: Spread
    first_token_s: Spread
    fairness: float
    programs_s: float
    tokens_s: float
    utilisation: float
    occupancy: float
    pages: float
    reuse: float
    redone_tokens: int
    moved_pages: int
    preempted: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """All NaN of nothing."""
    if not values:
        return Spread(nan, nan, nan, nan, nan)
    ranked = sorted(values)
    p50, p95, p99 = (ranked[max(0, ceil(q * len(ranked)) - 1)] for q in (0.5, 0.95, 0.99))
    return Spread(sum(ranked) / len(ranked), p50, p95, p99, ranked[-1])


def jain(values: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2). Source: Jain, Chiu, Hawe, DEC-TR-301 (1984)."""
    squares = sum(v * v for v in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else nan


def alone_s(script: Script, host: Host) -> float:
    """What it takes on this machine when nobody else is there, with nothing computed before."""
    total, context = 0.0, 0
    pending = script.prefix[1] if script.prefix is not None else 0
    for step in script.steps:
        if isinstance(step, Gap):
            total += step.seconds
            continue
        if isinstance(step, Singles):
            total += _decode_s(host, context, step.num_tokens, 1) + step.code_s * (step.num_tokens - 1)
            context += step.num_tokens
            continue
        rows = max(1, step.forks)
        total += _prompt_s(host, context, pending + step.prompt, rows)
        total += _decode_s(host, context + pending + step.prompt, step.decode - 1, rows)
        if step.forks:
            continue  # the context is what it was, and what was pending still is
        context += pending + step.prompt + step.decode - 1
        pending = 1
    return total


def _prompt_s(host: Host, context: int, num_tokens: int, rows: int) -> float:
    """Of rows that compute as many each, one after another."""
    seconds, done, total = 0.0, 0, num_tokens * rows
    while done < total:
        chunk = min(total - done, host.max_tokens)
        seconds += host.step_time.of([Chunk(chunk, context + done % num_tokens)])
        done += chunk
    return seconds


def _decode_s(host: Host, context: int, num_steps: int, rows: int) -> float:
    middle = context + num_steps // 2
    return num_steps * host.step_time.of([Chunk(1, middle)] * rows)


def summarise(played: Played) -> Summary:
    """The numbers of a play."""
    host, counters = played.host, played.counters
    ended = [(o, seconds) for o in played.outcomes if not o.failure and (seconds := o.completion_s) is not None]
    slowdowns = [(o, seconds / alone_s(o.script, host)) for o, seconds in ended]
    seconds, busy_s = max(played.end_s, 1e-9), counters["busy_s"]
    known = counters["reused"] + counters["redone"]
    return Summary(
        num_programs=len(played.outcomes),
        num_failed=len(played.outcomes) - len(ended),
        seconds=played.end_s,
        completion_s=spread([s for _, s in ended]),
        slowdown=spread([s for _, s in slowdowns]),
        first_token_s=spread([s for o in played.outcomes for s in o.first_token_s]),
        fairness=jain(_speeds(slowdowns)),
        programs_s=len(ended) / seconds,
        tokens_s=sum(o.script.num_tokens for o, _ in ended) / seconds,
        utilisation=busy_s / seconds,
        occupancy=_mean_of_rows(played),
        pages=_over_time(played, [m.pages_held / host.num_pages for m in played.moments]),
        reuse=counters["reused"] / known if known else nan,
        redone_tokens=int(counters["redone"]),
        moved_pages=int(counters["pages_demoted"] + counters["pages_loaded"]),
        preempted=int(counters["preempted"]),
    )


def _speeds(slowdowns: Sequence[tuple[Outcome, float]]) -> list[float]:
    """Of each principal, the mean of its programs' 1/slowdown."""
    by_principal: dict[str, list[float]] = defaultdict(list)
    for outcome, slowdown in slowdowns:
        by_principal[outcome.script.principal].append(1 / slowdown)
    return [sum(speeds) / len(speeds) for speeds in by_principal.values()]


def _mean_of_rows(played: Played) -> float:
    return sum(m.num_rows for m in played.moments) / max(1, len(played.moments)) / played.host.max_rows


def _over_time(played: Played, values: Sequence[float]) -> float:
    """Mean, each value lasting until the next moment."""
    total = sum(v * (b.at_s - a.at_s) for v, (a, b) in zip(values, pairwise(played.moments), strict=False))
    lasted = played.moments[-1].at_s - played.moments[0].at_s if played.moments else 0.0
    return total / lasted if lasted else nan
