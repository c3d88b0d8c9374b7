"""Random operations on files of the real engine, each distribution against a recompute in a fresh file."""

from __future__ import annotations

import random

import pytest

from tests.counts import count, random_for
from tests.engine.driver import Driver, ids, logprobs
from vllm_symphony.abi.types import Ino

CLOSE = 1e-4
LONGEST = 150  # tokens: almost five pages


class Files:
    """Files of the engine beside lists of (token, position)."""

    def __init__(self, dev: Driver, rng: random.Random) -> None:
        self.dev = dev
        self.rng = rng
        self.files: dict[Ino, list[tuple[int, int]]] = {}

    def pick(self) -> Ino:
        return self.rng.choice(list(self.files))

    def some(self, most: int = 40) -> list[int]:
        return [self.rng.randrange(40, 1000) for _ in range(self.rng.randint(1, most))]

    def following(self, ino: Ino) -> int:
        return self.files[ino][-1][1] + 1 if self.files[ino] else 0

    def add(self, ino: Ino, tokens: list[int], start: int) -> None:
        self.files[ino] += [(t, start + i) for i, t in enumerate(tokens)]

    def check(self, d, entries: list[tuple[int, int]]) -> None:
        """A fresh file with these tokens at these positions gives the same distribution."""
        fresh = self.dev.create()
        at = 0
        for i in range(1, len(entries) + 1):
            if i == len(entries) or entries[i][1] != entries[i - 1][1] + 1:
                self.dev.append(fresh, [t for t, _ in entries[at:i]], start=entries[at][1])
                at = i
        (want,) = self.dev.forward(fresh, [], top_k=5)
        self.dev.drop(fresh)
        assert logprobs(d) == pytest.approx(logprobs(want), abs=CLOSE), entries
        assert d.logsumexp == pytest.approx(want.logsumexp, abs=1e-3)

    # ---- operations

    def create(self) -> None:
        tokens = self.some(70)
        self.files[self.dev.create(tokens)] = [(t, i) for i, t in enumerate(tokens)]

    def fork(self) -> None:
        src = self.pick()
        self.files[self.dev.fork(src)] = list(self.files[src])

    def append(self) -> None:
        ino = self.pick()
        tokens, start = self.some(), self.following(ino) + self.rng.choice((0, 0, 0, 5))
        self.dev.append(ino, tokens, start=start)
        self.add(ino, tokens, start)

    def truncate(self) -> None:
        ino = self.pick()
        length = self.rng.randint(0, len(self.files[ino]))
        self.dev.truncate(ino, length)
        del self.files[ino][length:]

    def forward(self) -> None:
        ino = self.pick()
        tokens = self.some() if not self.files[ino] or self.rng.random() < 0.7 else []
        start = self.following(ino) + (self.rng.choice((0, 0, 0, 7)) if tokens else 0)
        (d,) = self.dev.forward(ino, tokens, start=start)
        self.add(ino, tokens, start)
        self.check(d, self.files[ino])

    def verify(self) -> None:
        """All rows of a forward."""
        ino, tokens = self.pick(), self.some(12)
        start = self.following(ino)
        every = self.dev.forward(ino, tokens, start=start, outputs="all", keep="none")
        self.add(ino, tokens, start)
        base = len(self.files[ino]) - len(tokens)
        i = self.rng.randrange(len(tokens))
        self.check(every[i], self.files[ino][: base + i + 1])

    def generate(self) -> None:
        ino = self.pick()
        if not self.files[ino]:
            return
        start = self.following(ino)
        g = self.dev.generate(ino, self.rng.randint(1, 12), start=start, logprobs=True)
        self.add(ino, g.tokens, start)
        (d,) = self.dev.forward(ino, [])
        self.check(d, self.files[ino])

    def row(self) -> None:
        ino = self.pick()
        if not self.files[ino]:
            return
        position = self.rng.randrange(len(self.files[ino]))
        row = self.dev.row(ino, position)
        part = self.dev.fork(ino, position + 1)
        (d,) = self.dev.forward(part, [])
        self.dev.drop(part)
        best = ids(d)[0]
        assert row[best] == pytest.approx(logprobs(d)[0] + d.logsumexp, abs=1e-3)

    def evict(self) -> None:
        ino = self.pick()
        self.dev.call_evict(ino)

    def drop(self) -> None:
        ino = self.pick()
        self.dev.drop(ino)
        del self.files[ino]

    def step(self) -> None:
        for ino in [i for i, entries in self.files.items() if len(entries) > LONGEST]:
            self.dev.drop(ino)
            del self.files[ino]
        if len(self.files) < 2:
            self.create()
        ops = [self.fork, self.append, self.truncate, self.forward, self.forward, self.verify, self.generate, self.row, self.evict]
        self.rng.choice([*ops, self.create if len(self.files) < 8 else self.drop])()


@pytest.mark.parametrize("number", range(count(4, 40)))
def test_random_operations_give_what_a_fresh_file_gives(dev, number):
    files = Files(dev, random_for(f"files {number}"))

    for i in range(60):
        files.step()
        if i % 10 == 0:
            dev.check()

    dev.check()
    dev.drop(*files.files)
