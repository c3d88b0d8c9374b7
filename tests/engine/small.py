"""Cases of the small real model in float32 (SmolLM2-135M): run by test_small_model.py in a process of their own.

The vocabulary of 49,152 takes the wide paths of engine/distribution.py, which the tiny model's 1,024 does not.
"""

from __future__ import annotations

from typing import Any

import torch

from tests.counts import count
from tests.engine.driver import Driver, ids, logprobs
from tests.engine.reference import Ties, decode, finish_plain, prompts, start_plain, together
from tests.tiny import tiny_args
from vllm_symphony.abi.types import Predicate, Sampler

K = 20


def engine_args() -> Any:
    from vllm_symphony.model import ensure_default_model

    return tiny_args(
        model=str(ensure_default_model()), num_gpu_blocks_override=None, kv_cache_memory_bytes=1 << 29, max_num_seqs=32
    )


def case_32_programs_token_by_token_give_plain_vllms_tokens_and_logprobs(dev: Driver) -> None:
    texts, n = prompts(dev, 32), count(8, 48)
    references = [finish_plain(q) for q in [start_plain(dev, p, n, K) for p in texts]]
    ties = Ties()

    together(*[lambda p=p, r=r: decode(dev, p, r, ties, K) for p, r in zip(texts, references, strict=True)])

    assert ties.num_tokens == 32 * n
    ties.report()


def case_a_distribution_is_its_whole_row(dev: Driver) -> None:
    (prompt,) = prompts(dev, 1)
    f = dev.create()

    (d,) = dev.forward(f, prompt, top_k=64, temperature=0.7, entropy=True)

    row = torch.tensor(dev.row(f, d.position), dtype=torch.float64)
    lse = torch.logsumexp(row, -1)
    p = (row - lse).exp()
    order = torch.argsort(row, descending=True, stable=True)[:64]
    assert ids(d) == order.tolist()
    assert torch.allclose(torch.tensor(logprobs(d), dtype=torch.float64), row[order] - lse, atol=1e-4)
    assert abs(d.logsumexp - lse) < 1e-4 and abs(d.logsumexp_t - torch.logsumexp(row / 0.7, -1)) < 1e-4
    assert abs(d.entropy - float(-(p * (row - lse)).sum())) < 1e-4
    dev.drop(f)


def case_generate_equals_its_splits(dev: Driver) -> None:
    (prompt,) = prompts(dev, 1)
    sampler = Sampler(temperature=0.8, top_p=0.95, presence_penalty=0.3, seed=5)
    whole, parts = dev.create(prompt), dev.create(prompt)

    tokens = dev.generate(whole, 24, sampler=sampler).tokens
    split: list[int] = []
    while len(split) < 24:
        g = dev.generate(parts, 24 - len(split), sampler=sampler, penalty_from=len(prompt), until=Predicate("every", value=7))
        split += g.tokens
        if g.done.reason == "until" and len(split) < 24:
            split += dev.generate(parts, 1, sampler=sampler, penalty_from=len(prompt)).tokens

    assert split == tokens
    dev.drop(whole, parts)
