"""A model that wants what a test says (testing/script.py).

    Script("Paris.")                                            after any prompt: this text, then the end
    Script({"of France?": "Paris.", "of Peru?": "Lima."})       after what ends so
    Script({"yes or": {" no": 0.7, " maybe": 0.3}})             one of several texts, with these probabilities

    tokens seen     ... y e s _ o r | _ m           the end that was named, then what has been said so far of its texts
                    [---- end ----] [said]          the next token: `a`, certainly, because one text alone begins so

A row is exact (to float32): the probability of a token is that of all texts that go on with it, so a program that samples, masks,
branches or measures entropy can be checked by hand. Probabilities that add up to less than one leave the rest to all other
tokens, evenly. After a text comes the end, unless another end that was named is met there. Between a named end and its text may
stand the mark by which `render_chat` lets the assistant begin. A text in progress goes before a finished one, then the longest
match counts.

Rejected: rows by call number. A script by what was said gives the same row to a fork, a retry and a recomputation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vllm_symphony.engine.sim.model import ASSISTANT, END, VOCAB_SIZE, Model, Row, decode, encode
from vllm_symphony.errors import InvalidArgument, NotSupported

Wants = str | Mapping[str | int, float]
"""A text, or texts (or token ids) with their probabilities."""
Tokens = tuple[int, ...]
Law = dict[int, float]  # token -> probability

FLOOR = -1e4  # the logit of what is never said; not -inf, because probability x logit must be a number
TURN: Tokens = (ord("\n"), ASSISTANT)
SHOWN = 60  # characters of a text in a message


class Unscripted(NotSupported):
    """The program asked what comes after something that the script does not speak of."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the model wants after `end`: texts, each closed by the end token, with probabilities."""

    end: Tokens
    texts: tuple[tuple[Tokens, float], ...]
    longest: int

    def law(self, said: Tokens) -> Law | None:
        """Probabilities of the next token, once `said` is there; None when no text goes on from there."""
        law: Law = {}
        for text, p in self.texts:
            if len(text) > len(said) and text[: len(said)] == said:
                law[text[len(said)]] = law.get(text[len(said)], 0.0) + p
        if said and law:
            total = math.fsum(law.values())
            return {token: p / total for token, p in law.items()} if total > 0 else None
        return law or None

    def follows(self, head: Tokens) -> bool:
        """Whether a text may begin after `head`."""
        return _ends(head, self.end) or (_ends(head, TURN) and _ends(head[: -len(TURN)], self.end))


class Script:
    """A `Model` of the simulator. Positions make no difference to it."""

    vocab_size = VOCAB_SIZE
    context: int | None = None

    def __init__(self, wants: str | Mapping[str, Wants] | None = None, *, otherwise: Model | None = None) -> None:
        """`wants`: a text after any prompt, or wishes by the end of what was said before ("": after any prompt).

        `otherwise`: the model for all else, as `SimModel()`, which babbles. Without one, all else is an error of the test.
        """
        self.otherwise = otherwise
        self._wishes: list[Wish] = []
        self._anywhere: Wish | None = None
        self._prompts: set[Tokens] = set()  # where `_anywhere` began
        for end, wish in ({"": wants} if isinstance(wants, str) else wants or {}).items():
            self.after(end, wish)

    def after(self, end: str, wants: Wants) -> Script:
        """Add a wish (a later one goes before an earlier one of the same end); gives the script itself.

        Raises:
            InvalidArgument: the probabilities are negative or add up to more than one, or a token id is out of the vocabulary.
        """
        wish = _wish(end, wants)
        if wish.end:
            self._wishes.insert(0, wish)
        else:
            self._anywhere = wish
            self._prompts.clear()
        return self

    def row(self, context: Sequence[tuple[int, int]]) -> Row:
        """Raises Unscripted."""
        tokens = tuple(token for token, _ in context)
        law, is_new = self._law(tokens)
        if law is not None:
            return _row(law, rest=1.0 - math.fsum(law.values()) if is_new else 0.0)
        if self.otherwise is not None:
            seen = self.otherwise.context
            return self.otherwise.row(context if seen is None else context[-seen:])
        raise Unscripted(f"nothing is scripted after {_shown(tokens, last=True)!r} ({len(tokens)} tokens); {self._ends()}")

    def _law(self, tokens: Tokens) -> tuple[Law | None, bool]:
        """What comes next, and whether a text begins there."""
        found = [match for wish in self._wishes if (match := self._match(wish, tokens))]
        if self._anywhere is not None and (match := self._match(self._anywhere, tokens)):
            found.append(match)
        if found:
            _, length, law = max(found, key=lambda match: match[0])
            return law, length == 0
        if tokens[-1] == END:
            return {END: 1.0}, False
        if self._anywhere is None:
            return None, False
        self._prompts.add(tokens)
        return self._anywhere.law(()), True

    def _match(self, wish: Wish, tokens: Tokens) -> tuple[tuple[bool, int], int, Law] | None:
        """How well the wish fits (unfinished, length), how much of a text was said, what is next; the longest text counts."""
        for length in range(min(wish.longest, len(tokens)), -1, -1):
            head, said = tokens[: len(tokens) - length], tokens[len(tokens) - length :]
            law = wish.law(said)
            if law is not None and (wish.follows(head) if wish.end else head in self._prompts):
                return (law.keys() != {END} or not said, len(wish.end) + length), length, law
        return None

    def _ends(self) -> str:
        ends = ", ".join(repr(_shown(wish.end)) for wish in self._wishes)
        return f"scripted is what follows: {ends}" if ends else "the script is empty"


def _wish(end: str, wants: Wants) -> Wish:
    weights: Mapping[str | int, float] = {wants: 1.0} if isinstance(wants, str) else wants
    total = math.fsum(weights.values())
    if not weights or min(weights.values()) < 0 or total > 1 + 1e-6:
        raise InvalidArgument(f"the probabilities after {end!r} must be 0 or more and add up to at most 1, not {total:g}")
    texts = []
    for text, p in weights.items():
        if isinstance(text, int) and not 0 <= text < VOCAB_SIZE:
            raise InvalidArgument(f"token {text} after {end!r} is out of the vocabulary of {VOCAB_SIZE}")
        tokens = (text,) if isinstance(text, int) else tuple(encode(text))
        texts.append((tokens if tokens[-1:] == (END,) else (*tokens, END), p))
    return Wish(tuple(encode(end)), tuple(texts), max(len(tokens) for tokens, _ in texts) - 1)


def _row(law: Law, rest: float) -> Row:
    others = VOCAB_SIZE - len(law)
    row = np.full(VOCAB_SIZE, math.log(rest / others) if rest > 1e-6 and others else FLOOR, np.float32)
    for token, p in law.items():
        row[token] = math.log(p) if p > 0 else FLOOR
    return row


def _ends(tokens: Tokens, end: Tokens) -> bool:
    return tokens[len(tokens) - len(end) :] == end if len(end) <= len(tokens) else False


def _shown(tokens: Tokens, last: bool = False) -> str:
    text = decode(tokens, skip_special=False)
    if len(text) <= SHOWN:
        return text
    return "..." + text[-SHOWN:] if last else text[:SHOWN] + "..."
