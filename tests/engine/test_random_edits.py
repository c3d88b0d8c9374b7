"""Random edits of files on the real engine: after each one the logits are those of transformers over a cache that was cut by hand.

Files are created, computed, forked, cut, extracted, joined, evicted, and asked at any position; each is followed by a `Pruned`.
"""

from __future__ import annotations

import random

import pytest

from tests.counts import count, random_for
from tests.engine.driver import Driver
from tests.engine.pruned import Pruned, concat, extract
from vllm_symphony.abi.types import Ino

LONGEST = 150  # tokens: almost five pages
K = 5


class Files:
    """Files of the engine, each beside what it should be."""

    def __init__(self, dev: Driver, rng: random.Random) -> None:
        self.dev = dev
        self.rng = rng
        self.files: dict[Ino, Pruned] = {}

    def pick(self) -> tuple[Ino, Pruned]:
        return self.rng.choice(list(self.files.items()))

    def some(self, most: int = 30) -> list[int]:
        return [self.rng.randrange(40, 1000) for _ in range(self.rng.randint(1, most))]

    def check(self, ino: Ino) -> None:
        """What follows the file's last token, asked on a fork or on the file itself."""
        want = self.files[ino]
        asked = self.dev.fork(ino) if self.rng.random() < 0.5 else ino
        (d,) = self.dev.forward(asked, [], top_k=K, keep="none")
        want.check(d)
        if asked != ino:
            self.dev.drop(asked)

    # ---- operations

    def create(self) -> None:
        want = Pruned()
        want.add(self.some(70))
        self.files[self.dev.create(want.tokens)] = want

    def fork(self) -> None:
        src, reference = self.pick()
        length = self.rng.randint(1, len(reference.tokens))
        ino = self.dev.fork(src, length)
        self.files[ino] = reference.fork(length)
        self.check(ino)

    def append(self) -> None:
        ino, want = self.pick()
        tokens, start = self.some(), want.following + self.rng.choice((0, 0, 0, 5))
        self.dev.append(ino, tokens, start=start)
        want.add(tokens, start)

    def truncate(self) -> None:
        ino, want = self.pick()
        length = self.rng.randint(1, len(want.tokens))
        self.dev.truncate(ino, length)
        want.cut(length)
        self.check(ino)

    def forward(self) -> None:
        ino, want = self.pick()
        tokens, start, base = self.some(), want.following + self.rng.choice((0, 0, 0, 7)), len(want.tokens)
        every = self.dev.forward(ino, tokens, start=start, outputs="all", top_k=K, keep="none")
        want.add(tokens, start)
        i = self.rng.randrange(len(tokens))
        want.check(every[i], base + i)
        want.check(every[-1])

    def generate(self) -> None:
        ino, want = self.pick()
        start = want.following
        want.add(self.dev.generate(ino, self.rng.randint(1, 8), start=start).tokens, start)
        self.check(ino)

    def extract(self) -> None:
        src, reference = self.pick()
        at = sorted(self.rng.sample(range(len(reference.tokens) + 1), min(len(reference.tokens) + 1, 2 * self.rng.randint(1, 3))))
        spans = list(zip(at[::2], at[1::2], strict=False))
        if not spans:
            return
        compact = self.rng.random() < 0.5
        ino = self.dev.extract(src, *spans, compact=compact)
        self.files[ino] = extract(reference, spans, compact)
        self.check(ino)

    def concat(self) -> None:
        srcs = [self.pick() for _ in range(self.rng.randint(2, 3))]
        ino = self.dev.concat(*[src for src, _ in srcs])
        self.files[ino] = concat([reference for _, reference in srcs])
        self.check(ino)

    def evict(self) -> None:
        ino, _ = self.pick()
        self.dev.call_evict(ino)

    def drop(self) -> None:
        ino, _ = self.pick()
        self.dev.drop(ino)
        del self.files[ino]

    def step(self) -> None:
        for ino in [ino for ino, want in self.files.items() if len(want.tokens) > LONGEST]:
            self.dev.drop(ino)
            del self.files[ino]
        if len(self.files) < 2:
            self.create()
        edits = [self.extract, self.extract, self.concat, self.fork, self.truncate]
        others = [self.append, self.forward, self.generate, self.evict, self.create if len(self.files) < 8 else self.drop]
        self.rng.choice([*edits, *others])()


@pytest.mark.parametrize("number", range(count(3, 45)))
def test_random_edits_give_what_a_cache_cut_by_hand_gives(dev, number):
    files = Files(dev, random_for(f"edits {number}"))

    for i in range(50):
        files.step()
        if i % 10 == 0:
            dev.check()

    dev.check()
    dev.drop(*files.files)
