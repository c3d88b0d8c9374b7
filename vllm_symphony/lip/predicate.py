"""When `generate` hands back to the program (lip/predicate.py): conditions as expressions, data on the wire.

    until = (lip.entropy > 2.0) | lip.after(64)          until = (lip.top1 < 0.4) & (lip.mass(digits) > 0.5)

They are evaluated on the device, on the unmasked distribution before each token is chosen; nothing leaves the engine meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vllm_symphony.abi.types import Predicate
from vllm_symphony.lip.sampling import pack


@dataclass(frozen=True, slots=True)
class Condition:
    """A predicate that combines by `&` and `|`. `data` is what goes over the wire."""

    data: Predicate

    def __and__(self, other: Condition) -> Condition:
        return self._with("and", other)

    def __or__(self, other: Condition) -> Condition:
        return self._with("or", other)

    def _with(self, op: str, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        parts = [part for side in (self.data, other.data) for part in (side.parts if side.op == op else (side,))]
        return Condition(Predicate(op, parts=tuple(parts)))

    def __bool__(self) -> bool:
        raise TypeError("a condition has no truth here, it is tested on the device: combine with & and |, in parentheses")


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of the distribution; compared with a number it becomes a condition."""

    op: str
    tokens: bytes = b""

    def __gt__(self, value: float) -> Condition:
        return Condition(Predicate(self.op, float(value), tokens=self.tokens))

    def __lt__(self, value: float) -> Condition:
        return Condition(Predicate(self.op, float(value), below=True, tokens=self.tokens))


entropy = Measure("entropy")
"""Entropy of the distribution in nats."""
top1 = Measure("top1")
"""Probability of the best token."""
margin = Measure("margin")
"""Probability of the best token less that of the second."""


def mass(tokens: Iterable[int]) -> Measure:
    """Probability of `tokens` together."""
    return Measure("mass", pack(tokens))


def best_in(tokens: Iterable[int]) -> Condition:
    """The best token is one of `tokens`."""
    return Condition(Predicate("top1_in", tokens=pack(tokens)))


def after(num_tokens: int) -> Condition:
    """At least `num_tokens` tokens were generated in this call."""
    return Condition(Predicate("after", float(num_tokens)))


def every(num_tokens: int) -> Condition:
    """The number of tokens generated in this call is a positive multiple of `num_tokens`."""
    return Condition(Predicate("every", float(num_tokens)))


def data_of(until: Condition | Predicate | None) -> Predicate | None:
    """What goes over the wire."""
    return until.data if isinstance(until, Condition) else until
