"""Next-token distributions as programs hold them (lip/distribution.py): the top of a row, and a handle to the whole of it.

    dist = await file.forward(tokens)         dist.top1, dist.p, dist.entropy: numbers, no call
    token = await dist.sample(top_k=10)       local where that is exact (lip/local.py), else one call: the same token either way
    row = await dist.logits()                 the whole row, one call

The handle is (file, position): it works as long as the file is open and was not cut below the position; the kernel keeps recent
rows and recomputes others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Unpack, overload

from vllm_symphony.abi import types as abi
from vllm_symphony.abi.draw import uniform
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.lip import transport
from vllm_symphony.lip.local import support
from vllm_symphony.lip.sampling import Sampling, Token, sampler_of

if TYPE_CHECKING:
    from vllm_symphony.lip.file import File


class Distribution:
    """What comes after the token at index `position` of `file`. Log-probabilities are the unmasked model's at temperature 1."""

    __slots__ = ("_data", "_ids", "_logprobs", "file")

    def __init__(self, file: File, data: abi.Distribution) -> None:
        self.file = file
        self._data = data
        self._ids: list[int] | None = None
        self._logprobs: list[float] | None = None

    @property
    def position(self) -> int:
        """Index in the file of the last token that it has seen."""
        return self._data.position

    @property
    def ids(self) -> list[int]:
        """The `top_k` best token ids that were asked for, best first."""
        if self._ids is None:
            self._ids = abi.unpack_tokens(self._data.ids)
        return self._ids

    @property
    def logprobs(self) -> list[float]:
        """Log-probabilities of `ids`."""
        if self._logprobs is None:
            self._logprobs = abi.unpack_floats(self._data.logprobs)
        return self._logprobs

    @property
    def entropy(self) -> float:
        """In nats, over the whole vocabulary. InvalidArgument unless `forward` was asked for it."""
        if math.isnan(self._data.entropy):
            raise InvalidArgument("the entropy was not computed: ask forward for entropy=True")
        return self._data.entropy

    @property
    def logsumexp(self) -> float:
        """Of the raw logits: the raw logit of a token is its log-probability + this."""
        return self._data.logsumexp

    @property
    def top1(self) -> int:
        """The best token: what greedy decoding takes."""
        return self.ids[self._rank(0)]

    @property
    def p(self) -> float:
        """Probability of the best token."""
        return math.exp(self.logprobs[self._rank(0)])

    @property
    def margin(self) -> float:
        """Probability of the best token less that of the second."""
        return self.p - math.exp(self.logprobs[self._rank(1)])

    def __contains__(self, token: object) -> bool:
        """Is the token's probability known here, without a call?"""
        return token in self.ids

    def logprob(self, token: int) -> float:
        """Log-probability of one of `ids`; InvalidArgument for another token (`logits()` has them all)."""
        try:
            return self.logprobs[self.ids.index(token)]
        except ValueError:
            raise InvalidArgument(f"token {token} is not among the {len(self.ids)} best: ask forward for a larger top_k") from None

    def prob(self, token: int) -> float:
        """Probability of one of `ids`; errors as `logprob`."""
        return math.exp(self.logprob(token))

    @overload
    async def sample(
        self,
        sampler: abi.Sampler | None = None,
        *,
        n: None = None,
        draw: int = 0,
        grammar: abi.Grammar | None = None,
        timeout_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Token: ...
    @overload
    async def sample(
        self,
        sampler: abi.Sampler | None = None,
        *,
        n: int,
        draw: int = 0,
        grammar: abi.Grammar | None = None,
        timeout_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> list[Token]: ...
    async def sample(
        self,
        sampler: abi.Sampler | None = None,
        *,
        n: int | None = None,
        draw: int = 0,
        grammar: abi.Grammar | None = None,
        timeout_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Token | list[Token]:
        """Draw one token, or a list of `n`; greedy by default. The file does not change.

        Draw number `draw + i` at this position depends on the seed alone; without a seed each call of `sample` draws afresh from
        the process's own source.

        Raises:
            InvalidArgument: a value of the sampler or the grammar is out of range.
            StaleFile: the file was cut below `position`, and the draw needs the row.
        """
        how = sampler_of(sampler, sampling)
        if how.seed is None and how.temperature != 0:
            how = sampler_of(how, {"seed": await transport.session().fresh_seed()})
        count = 1 if n is None else n
        tokens = self._sample_here(how, count, draw) if grammar is None else None
        if tokens is None:
            tokens = await self.file.sample(how, position=self.position, n=count, draw=draw, grammar=grammar, timeout_s=timeout_s)
        return tokens[0] if n is None else tokens

    async def logits(self, *, timeout_s: float | None = None) -> list[float]:
        """The whole row of raw logits, [vocab_size]. StaleFile when the file was cut below `position`."""
        return await self.file.logits(self.position, timeout_s=timeout_s)

    def _sample_here(self, sampler: abi.Sampler, n: int, draw: int) -> list[Token] | None:
        """The draws, or None when what came back does not determine each of them."""
        if n < 1 or draw < 0:
            return None
        ids, logprobs, data = self.ids, self.logprobs, self._data
        may = support(ids, logprobs, sampler, logsumexp=data.logsumexp, temperature=data.temperature, logsumexp_t=data.logsumexp_t)
        if may is None:
            return None
        tokens = []
        for i in range(draw, draw + n):
            rank = may.pick(0.0 if sampler.seed is None else uniform(sampler.seed, data.position, i))
            if rank is None:
                return None
            tokens.append(Token(ids[rank], logprobs[rank]))
        self.file.note_local_draw(data.position)
        return tokens

    def _rank(self, rank: int) -> int:
        if rank >= len(self.ids):
            raise InvalidArgument(f"only {len(self.ids)} ids are known: ask forward for top_k >= {rank + 1}")
        return rank

    def __repr__(self) -> str:
        best = ", ".join(f"{t}: {math.exp(lp):.3f}" for t, lp in zip(self.ids[:3], self.logprobs[:3], strict=True))
        return f"<distribution at {self.position}: {best}{', ...' if len(self.ids) > 3 else ''}>"
