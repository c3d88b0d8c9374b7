"""Distributions, draws and predicates on a row (engine/sim/sampler.py): the rules of row_sampler.py and distribution.py, in numpy.

Same order of rules (allowed set and grammar, bias, penalties, temperature, min_p, top_k, top_p), same draw: the inverse of the
cumulative distribution in rank order (best first, ties by lower id) at u = uniform(seed, position, draw). So what a program draws
locally is what the simulator would have drawn, and one test of it holds for both devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vllm_symphony.abi.draw import uniform
from vllm_symphony.abi.types import Distribution, Predicate, Sampler, unpack_tokens
from vllm_symphony.engine.sim.model import Row

GREEDY_BELOW = 1e-5
Mask = NDArray[np.bool_]  # [vocab_size] what may be drawn


def logsumexp(row: Row, temperature: float = 1.0) -> float:
    x = row.astype(np.float64) / temperature
    top = float(x.max())
    return top + math.log(float(np.exp(x - top).sum()))


def ranked(row: Row, k: int) -> NDArray[np.intp]:
    """The k best ids, best first, ties by lower id."""
    return np.argsort(-row, kind="stable")[:k]


def entropy_of(row: Row) -> float:
    lse = logsumexp(row)
    x = row.astype(np.float64)
    return lse - float((np.exp(x - lse) * x).sum())


def distribution(row: Row, position: int, top_k: int, temperature: float, entropy: bool) -> Distribution:
    lse = logsumexp(row)
    ids = ranked(row, top_k)
    return Distribution(
        position=position,
        ids=ids.astype("<u4").tobytes(),
        logprobs=(row[ids] - np.float32(lse)).astype("<f4").tobytes(),
        logsumexp=float(np.float32(lse)),
        entropy=entropy_of(row) if entropy else math.nan,
        temperature=temperature,
        logsumexp_t=logsumexp(row, temperature) if temperature != 1.0 else float(np.float32(lse)),
    )


def sample_row(
    row: Row, s: Sampler, tokens: Sequence[int], penalty_from: int, mask: Mask | None, seed: int, position: int, first: int, n: int
) -> tuple[list[int], list[float]]:
    """Draw `n` tokens given the file's tokens up to the row; with their log-probabilities in the unmasked row."""
    logits = penalised(row, s, tokens, penalty_from, mask)
    if s.temperature < GREEDY_BELOW:
        drawn = [int(logits.argmax())] * n
    else:
        order = np.argsort(-logits, kind="stable")
        x = logits[order].astype(np.float64) / s.temperature
        p = np.exp(x - x[0])
        p /= p.sum()
        if s.min_p > 0:
            p[p < s.min_p * p[0]] = 0.0
        if 0 < s.top_k < len(p):
            p[s.top_k :] = 0.0
        if s.top_p < 1.0:
            p /= p.sum()
            p[p.cumsum() - p >= s.top_p] = 0.0
        cumulative = p.cumsum()
        last = int((p > 0).sum()) - 1
        at = [int(np.searchsorted(cumulative, uniform(seed, position, first + i) * cumulative[-1], side="right")) for i in range(n)]
        drawn = [int(order[min(i, last)]) for i in at]
    lse = logsumexp(row)
    return drawn, [float(row[t]) - lse for t in drawn]


def penalised(row: Row, s: Sampler, tokens: Sequence[int], penalty_from: int, mask: Mask | None) -> Row:
    logits = row.copy()
    if mask is not None:
        logits[~mask] = -np.inf
    if s.allowed is not None:
        keep = np.full_like(logits, -np.inf)
        at = unpack_tokens(s.allowed)
        keep[at] = logits[at]
        logits = keep
    for token, bias in (s.logit_bias or {}).items():
        logits[token] += np.float32(bias)
    if s.repetition_penalty != 1.0 and len(tokens):
        at = sorted(set(tokens))
        seen = logits[at]
        logits[at] = np.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
    if s.presence_penalty or s.frequency_penalty:
        counts = np.bincount(np.asarray(tokens[penalty_from:], np.int64), minlength=len(logits))
        logits -= (s.frequency_penalty * counts + s.presence_penalty * (counts > 0)).astype(np.float32)
    return logits


def fires(p: Predicate, row: Row, num_generated: int) -> bool:
    """Whether the predicate holds on the row, `num_generated` tokens into the call."""
    op = p.op
    if op in ("and", "or"):
        return (all if op == "and" else any)(fires(part, row, num_generated) for part in p.parts)
    if op == "after":
        return num_generated >= p.value
    if op == "every":
        return num_generated > 0 and num_generated % int(p.value) == 0
    if op == "top1_in":
        return int(row.argmax()) in unpack_tokens(p.tokens)
    value = _measure(p, row)
    return value < p.value if p.below else value > p.value


def _measure(p: Predicate, row: Row) -> float:
    if p.op == "entropy":
        return entropy_of(row)
    lse = logsumexp(row)
    if p.op == "mass":
        return float(np.exp(row[unpack_tokens(p.tokens)].astype(np.float64) - lse).sum())
    best = np.exp(row[ranked(row, 2)].astype(np.float64) - lse)
    return float(best[0]) if p.op == "top1" else float(best[0] - best[1])
