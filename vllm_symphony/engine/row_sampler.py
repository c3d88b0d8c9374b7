"""Sampling from one whole row (engine/row_sampler.py): what `sample` does when the program cannot do it exactly itself.

The order of rules is vLLM's: allowed set and grammar, bias, penalties, temperature, min_p, top_k, top_p. The draw is the inverse of
the cumulative distribution in rank order (best first, ties by lower id) at u = uniform(seed, position, draw), which the program's
library computes too: a draw is the same token wherever it is made.
Source: vllm/v1/sample/sampler.py, ops/topk_topp_sampler.py (0.32) for the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_symphony.abi.draw import uniform
from vllm_symphony.abi.types import Sampler, unpack_tokens

GREEDY_BELOW = 1e-5  # vLLM's _SAMPLING_EPS: a lower temperature is greedy


def sample_row(
    row: torch.Tensor,
    sampler: Sampler,
    tokens: Sequence[int],
    penalty_from: int,
    bitmask: torch.Tensor | None,
    seed: int,
    position: int,
    first_draw: int,
    n: int,
) -> tuple[list[int], list[float]]:
    """Draw `n` tokens from `row` [vocab] (raw logits), given the file's tokens up to it.

    Returns the tokens and their log-probabilities in the unmasked model at temperature 1.
    """
    raw = row.float()
    logits = penalised(raw, sampler, tokens, penalty_from, bitmask)
    if sampler.temperature < GREEDY_BELOW:
        drawn = [int(logits.argmax())] * n
    else:
        # logits are ranked, not probabilities: float32 softmax makes different logits tie
        order = torch.sort(logits, descending=True, stable=True)
        ids, ranked = order.indices, (order.values.double() / sampler.temperature).softmax(-1)
        if sampler.min_p > 0:
            ranked = torch.where(ranked >= sampler.min_p * ranked[0], ranked, 0.0)
        if 0 < sampler.top_k < len(ranked):
            ranked[sampler.top_k :] = 0.0
        if sampler.top_p < 1.0:
            ranked = ranked / ranked.sum()
            before = ranked.cumsum(-1) - ranked
            ranked = torch.where(before < sampler.top_p, ranked, 0.0)
        cumulative = ranked.cumsum(-1)
        total = float(cumulative[-1])
        u = torch.tensor([uniform(seed, position, first_draw + i) * total for i in range(n)], dtype=torch.float64)
        at = torch.searchsorted(cumulative.cpu(), u, right=True).clamp_max(int((ranked > 0).sum()) - 1)
        drawn = ids.cpu()[at].tolist()
    lse = torch.logsumexp(raw, -1)
    return drawn, [float(raw[t] - lse) for t in drawn]


def penalised(
    raw: torch.Tensor, sampler: Sampler, tokens: Sequence[int], penalty_from: int, bitmask: torch.Tensor | None
) -> torch.Tensor:
    """A copy of `raw` with masks, bias and penalties applied."""
    logits = raw.clone()
    if bitmask is not None:
        bits = (bitmask.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1  # [words, 32], low bit first
        allowed = bits.flatten()[: logits.shape[-1]].bool().to(logits.device)
        logits.masked_fill_(~allowed, float("-inf"))
    if sampler.allowed is not None:
        keep = torch.full_like(logits, float("-inf"))
        at = torch.tensor(unpack_tokens(sampler.allowed), device=logits.device)
        keep[at] = logits[at]
        logits = keep
    if sampler.logit_bias:
        at = torch.tensor(list(sampler.logit_bias), device=logits.device)
        logits[at] += torch.tensor(list(sampler.logit_bias.values()), device=logits.device)
    if sampler.repetition_penalty != 1.0 and tokens:
        at = torch.tensor(sorted(set(tokens)), device=logits.device)
        seen = logits[at]
        logits[at] = torch.where(seen > 0, seen / sampler.repetition_penalty, seen * sampler.repetition_penalty)
    if sampler.presence_penalty or sampler.frequency_penalty:
        counts = torch.bincount(torch.tensor(list(tokens[penalty_from:]), dtype=torch.long), minlength=logits.shape[-1])
        counts = counts.to(logits.device)
        logits -= sampler.frequency_penalty * counts
        logits -= sampler.presence_penalty * (counts > 0)
    return logits
