"""What edited files are compared with: transformers on the same weights in float32, over a cache that was cut and rotated by hand.

    Pruned   tokens, positions, and the keys and values of the first `fixed` tokens; the rest is computed over them when asked for

A file's last token is never fixed: what follows it is asked of the model anew, over what stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from tests.engine.driver import ids, logprobs
from tests.tiny import TINY
from vllm_symphony.abi.types import Distribution

CLOSE = 2e-4  # two implementations of attention in float32


@cache
def _model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").eval()


@dataclass
class Pruned:
    """`kv` [num_layers, 2, num_heads, fixed, head_dim] of the fixed tokens."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    kv: torch.Tensor | None = None

    @property
    def fixed(self) -> int:
        return 0 if self.kv is None else self.kv.shape[3]

    @property
    def following(self) -> int:
        return self.positions[-1] + 1 if self.positions else 0

    def add(self, tokens: Sequence[int], start: int | None = None) -> None:
        first = self.following if start is None else start
        self.tokens += tokens
        self.positions += range(first, first + len(tokens))

    def fork(self, length: int | None = None) -> Pruned:
        other = Pruned(self.tokens.copy(), self.positions.copy(), self.kv)
        other.cut(len(self.tokens) if length is None else length)
        return other

    def cut(self, length: int) -> None:
        del self.tokens[length:], self.positions[length:]
        if self.kv is not None:
            self.kv = self.kv[:, :, :, : max(0, length - 1)] if length > 1 else None

    def run(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [length - fixed, vocab], and keys and values of the first `length` tokens."""
        from transformers import DynamicCache

        past, fixed = DynamicCache(), self.fixed
        if self.kv is not None:
            for layer, (k, v) in enumerate(self.kv):
                past.update(k[None], v[None], layer)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[fixed:]
        with torch.inference_mode():
            out = _model()(
                torch.tensor([self.tokens[fixed:length]]), position_ids=torch.tensor([self.positions[fixed:length]]),
                attention_mask=mask[None, None], past_key_values=past, use_cache=True,
            )  # fmt: skip
        kv = torch.stack([torch.stack((layer.keys[0], layer.values[0])) for layer in past.layers])
        return out.logits[0], kv

    def kv_of(self, length: int) -> torch.Tensor:
        """Keys and values of the first `length` tokens."""
        if self.kv is not None and length <= self.fixed:
            return self.kv[:, :, :, :length]
        return self.run(length)[1]

    def row(self, index: int = -1) -> torch.Tensor:
        """Log-probabilities after that token. # [vocab]"""
        length = len(self.tokens) if index < 0 else index + 1
        file = self if length > self.fixed else self.fork(length)
        return torch.log_softmax(file.run(length)[0][-1], -1)

    def check(self, d: Distribution, index: int = -1) -> None:
        """The distribution is the one after that token."""
        row = self.row(index)
        best = row.topk(len(ids(d))).values.tolist()
        for token, logprob, want in zip(ids(d), logprobs(d), best, strict=True):
            assert abs(row[token].item() - logprob) < CLOSE, (token, row[token].item(), logprob)
            assert abs(want - logprob) < CLOSE


def extract(src: Pruned, spans: Sequence[tuple[int, int]], compact: bool = False) -> Pruned:
    indices = [i for start, stop in spans for i in range(start, stop)]
    old = [src.positions[i] for i in indices]
    new = list(range(len(indices))) if compact else old
    kept = indices[:-1]
    kv = src.kv_of(indices[-1])[:, :, :, kept] if kept else None
    return Pruned([src.tokens[i] for i in indices], new, turned(kv, old[:-1], new[:-1]))


def concat(srcs: Sequence[Pruned]) -> Pruned:
    """Keys of all but the first are turned to where they come to stand."""
    first, *others = srcs
    out = Pruned(first.tokens.copy(), first.positions.copy())
    parts = [first.kv_of(len(first.tokens))] if first.tokens else []
    for src in (other for other in others if other.tokens):
        new = list(range(out.following, out.following + len(src.tokens)))
        parts.append(turned(src.kv_of(len(src.tokens)), src.positions, new))
        out.tokens += src.tokens
        out.positions += new
    out.kv = torch.cat(parts, 3)[:, :, :, :-1]
    return out


def turned(kv: torch.Tensor | None, old: Sequence[int], new: Sequence[int]) -> torch.Tensor | None:
    """Keys that were put at `old` positions, at `new` ones."""
    if kv is None or list(old) == list(new):
        return kv
    dim = kv.shape[-1]
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, dim, 2) / dim)
    angles = (torch.tensor(new) - torch.tensor(old))[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    low, high = kv[:, 0, ..., : dim // 2], kv[:, 0, ..., dim // 2 :]
    keys = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    return torch.stack((keys, kv[:, 1]), 1)
