"""What sampling on a file remembers (kernel/fs/sampling.py).

    tokens    [ p r o m p t | a n s w e r ...      first = 6: penalties count from here
                              ^ grammars[("json", schema)] = 6, until the grammar is complete

Sampler state belongs to the position, not to a request: with it `generate(100)` equals a hundred times `generate(1)`. It is forked
with the file and rolled back by `truncate`; only a token that was really drawn changes it, so a call that fails leaves no trace.
"""

from __future__ import annotations

from vllm_symphony.abi.types import Grammar
from vllm_symphony.errors import InvalidArgument

_MAX_GRAMMARS = 8  # unfinished ones that a file remembers; the oldest is forgotten


class Sampling:
    """Where sampling began (`first`, a length of the file) and where each unfinished grammar began."""

    __slots__ = ("first", "grammars")

    def __init__(self, first: int | None = None, grammars: dict[tuple[str, str], int] | None = None) -> None:
        self.first = first
        self.grammars = grammars if grammars is not None else {}

    def copy(self) -> Sampling:
        """The same state for a fork."""
        return Sampling(self.first, dict(self.grammars))

    def penalty_from(self, explicit: int | None, length: int) -> int:
        """Where penalties count from, for a draw after the first `length` tokens.

        Raises:
            InvalidArgument: `explicit` is no length within them.
        """
        if explicit is not None:
            if not 0 <= explicit <= length:
                raise InvalidArgument(f"penalty_from is {explicit}, not within 0..{length}", penalty_from=explicit, length=length)
            return explicit
        return length if self.first is None else min(self.first, length)

    def grammar_start(self, grammar: Grammar, length: int) -> int:
        """Where the grammar began, for a draw after the first `length` tokens: asked for, unfinished here, or just now.

        Raises:
            InvalidArgument: `grammar.start` is no length within them.
        """
        if grammar.start is not None:
            if not 0 <= grammar.start <= length:
                raise InvalidArgument(
                    f"grammar.start is {grammar.start}, not within 0..{length}", start=grammar.start, length=length
                )
            return grammar.start
        return min(self.grammars.get((grammar.kind, grammar.text), length), length)

    def drawn(self, length: int, grammar: Grammar | None) -> None:
        """A token was drawn after the first `length` tokens; `grammar.start` is set."""
        if self.first is None:
            self.first = length
        if grammar is not None and grammar.start is not None:
            self.grammars[grammar.kind, grammar.text] = grammar.start
            while len(self.grammars) > _MAX_GRAMMARS:
                del self.grammars[next(iter(self.grammars))]

    def finished(self, grammar: Grammar) -> None:
        """The grammar is complete: the next call with it begins anew."""
        self.grammars.pop((grammar.kind, grammar.text), None)

    def cut(self, length: int) -> None:
        """The file was cut to `length` tokens."""
        if self.first is not None and self.first > length:
            self.first = None
        self.grammars = {key: start for key, start in self.grammars.items() if start <= length}
