"""The words in which a program says how to draw (lip/sampling.py): one `Sampler`, or its fields as keywords, everywhere.

await dist.sample(temperature=0.8, top_p=0.9)        file.generate(64, sampler, seed=7)        Sampler(top_k=40)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypedDict

from vllm_symphony.abi.types import Sampler, pack_tokens
from vllm_symphony.errors import InvalidArgument

GREEDY = Sampler()


class Sampling(TypedDict, total=False):
    """Fields of `Sampler` as keywords. `allowed` may be any iterable of token ids."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    penalty_from: int | None
    logit_bias: Mapping[int, float] | None
    allowed: Iterable[int] | None
    seed: int | None


class Token(int):
    """A token id that was drawn. `logprob`: its log-probability in the unmasked model at temperature 1."""

    logprob: float

    def __new__(cls, token: int, logprob: float) -> Token:
        self = super().__new__(cls, token)
        self.logprob = logprob
        return self


def pack(tokens: Iterable[int], what: str = "token ids") -> bytes:
    """Token ids for the wire.

    Raises:
        InvalidArgument: one of them is no integer in 0..2**32-1.
    """
    if isinstance(tokens, bytes):
        return tokens
    try:
        return pack_tokens(tokens)
    except (OverflowError, TypeError, ValueError) as e:
        raise InvalidArgument(f"{what} must be integers from 0 to 4294967295: {e}") from None


def sampler_of(sampler: Sampler | None, sampling: Sampling) -> Sampler:
    """`sampler` (default: greedy) with the keywords on top. Values are judged by the kernel, types by the signature."""
    if not sampling:
        return sampler or GREEDY
    fields: dict[str, object] = dict(sampling)
    allowed, bias = sampling.get("allowed"), sampling.get("logit_bias")
    if allowed is not None:
        fields["allowed"] = pack(allowed, "allowed")
    if bias is not None:
        fields["logit_bias"] = dict(bias)
    try:
        return replace(sampler or GREEDY, **fields)  # type: ignore[arg-type]
    except TypeError:
        unknown = ", ".join(sorted(set(fields) - set(Sampling.__annotations__)))
        raise TypeError(f"no such sampling keyword: {unknown} (there are: {', '.join(Sampling.__annotations__)})") from None
