"""Exact local sampling: draw at the program when, and only when, the server would draw the same token (lip/local.py).

The program knows the top K ids of a row with their log-probabilities l_i at temperature 1, best first (ties: lower id), the row's
logsumexp L, and L_T = logsumexp(logits / T') at one temperature T' that it asked for. The reference draw, on the whole row, is

    z_i = l_i / T                      1. temperature (T = 0: the best allowed token, no draw)
    keep z_i >= z_best + ln(min_p)     2. min_p, relative to the best
    keep the first top_k ranks         3. top_k: exactly so many, in rank order
    keep ranks while the mass of all   4. top_p: the mass is relative to what 2 and 3 left, the rank that reaches top_p is kept
      better ranks is < top_p
    token = the first rank with        5. inverse CDF in rank order, u = uniform(seed, position, draw), the mass relative to
      cdf(rank) > u                       what 4 left

`allowed` removes all other ids before 1. Each rule keeps a prefix of the ranks, so what is known of a prefix may be enough:

    complete    all that can be drawn is known: T = 0; min_p's floor lies above the last known id; top_k <= K (of the allowed);
                all of `allowed` is known. Then weights exp(z_i) suffice, and no normaliser is needed, at any T.
    normalised  else Z = sum over the row of exp(z) is needed. T = 1: p_i = exp(l_i). T = T': p_i = exp((l_i + L) / T - L_T). Then
                top_p is exact when the known mass reaches it, and a plain draw is exact when u < known mass.
    neither     penalties, bias, grammars, any other T: the server draws, with the same (seed, position, draw).

So u decides who draws, never what is drawn: local and remote give one token, and the mixture has the row's law. Floats: l_i come
as float32 and the row is float32, so a threshold closer than `EDGE` to where it matters is left to the server too (about one
draw in thousands). Temperatures in (0, 0.01) are as well: vLLM raises them to 0.01.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vllm_symphony.abi.types import Sampler, unpack_tokens

EDGE = 1e-5  # relative, at T >= 1; rounding of float32 logits grows as 1/T
MIN_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class Support:
    """What may be drawn: ranks among the known ids, their running weights, and the weight `total` that u is a fraction of.

    `complete`: no other token can be drawn. `edge`: how close to a threshold (relative to total) counts as undecided.
    """

    ranks: Sequence[int]
    cumulative: Sequence[float]
    total: float
    complete: bool
    edge: float = EDGE

    def pick(self, u: float) -> int | None:
        """The rank that u in [0, 1) falls on, or None where only the whole row can tell."""
        target, edge = u * self.total, self.edge * self.total
        i = bisect_right(self.cumulative, target)
        last = len(self.cumulative) - 1
        if i > last:
            return self.ranks[last] if self.complete else None
        if i > 0 and target - self.cumulative[i - 1] < edge:
            return None
        if (i < last or not self.complete) and self.cumulative[i] - target < edge:
            return None
        return self.ranks[i]


def support(
    ids: Sequence[int],
    logprobs: Sequence[float],
    sampler: Sampler,
    *,
    logsumexp: float,
    temperature: float,
    logsumexp_t: float,
) -> Support | None:
    """What `sampler` may draw from the known ids, or None when they do not determine it.

    The last three are the distribution's: its logsumexp, and at which temperature `logsumexp_t` was computed.
    """
    if not ids or not _is_plain(sampler):
        return None
    ranks: Sequence[int] = range(len(ids))
    complete = False
    if sampler.allowed is not None:
        allowed = set(unpack_tokens(sampler.allowed))
        ranks = [r for r in ranks if ids[r] in allowed]
        complete = len(ranks) == len(allowed)
        if not ranks:
            return None
    t = sampler.temperature
    if t == 0:
        return Support(ranks[:1], (1.0,), 1.0, complete=True)
    edge = EDGE / min(t, 1.0)
    best = logprobs[ranks[0]]
    weights = [math.exp((logprobs[r] - best) / t) for r in ranks]

    if sampler.min_p > 0:
        if any(abs(w / sampler.min_p - 1) < edge for w in weights[1:]):
            return None
        weights = [w for w in weights if w >= sampler.min_p]
        complete = complete or math.exp((logprobs[-1] - best) / t) < sampler.min_p * (1 - edge)
    if 0 < sampler.top_k <= len(weights):
        weights, complete = weights[: sampler.top_k], True

    cumulative = list(accumulate(weights))
    if complete:
        total = cumulative[-1]
    elif sampler.min_p > 0 or sampler.top_k > 0 or sampler.allowed is not None:
        return None
    elif t == 1:
        total = math.exp(-best)
    elif t == temperature:
        total = math.exp(logsumexp_t - (best + logsumexp) / t)
    else:
        return None
    if sampler.top_p < 1:
        threshold = sampler.top_p * total
        num_kept = bisect_left(cumulative, threshold) + 1  # the rank that reaches it is kept
        if any(abs(c - threshold) < edge * total for c in cumulative[max(num_kept - 2, 0) : num_kept]):
            return None
        if num_kept <= len(cumulative):
            cumulative, complete = cumulative[:num_kept], True
            total = cumulative[-1]
        elif not complete:
            return None
    return Support(ranks[: len(cumulative)], cumulative, total, complete, edge)


def _is_plain(s: Sampler) -> bool:
    """No rule that needs more than the row, and no value that the kernel would refuse (it words the error)."""
    return (
        s.presence_penalty == 0
        and s.frequency_penalty == 0
        and s.repetition_penalty == 1
        and not s.logit_bias
        and (s.temperature == 0 or MIN_TEMPERATURE <= s.temperature < math.inf)
        and s.top_k >= 0
        and 0 < s.top_p <= 1
        and 0 <= s.min_p <= 1
        and (s.penalty_from is None or s.penalty_from >= 0)
    )
