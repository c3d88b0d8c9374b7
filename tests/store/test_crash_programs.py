"""SIGKILL of the real kernel host while programs are installed and taken away: the next one has all that was synced, each program
whole, and of what came after it the first changes only."""

from __future__ import annotations

import getpass
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.counts import count, random_for
from tests.store.host import Died, Host
from vllm_symphony.abi.calls import Install, ProgramArgs, Programs, Sync

Picture = dict[str, str]  # "owner/name@version" -> text
ME = getpass.getuser()
MAX_CALLS = 60
LIVES = count(2, 40)


@dataclass
class Shelf:
    """What is installed, as the model has it: `pictures[0]` was synced last, the last one is after the call in flight."""

    rng: random.Random
    pictures: list[Picture] = field(default_factory=lambda: [{}])

    def step(self, host: Host) -> None:
        """One more call, or a sync. Raises Died."""
        now = dict(self.pictures[-1])
        if self.rng.random() < 0.25:
            host("sync", Sync())
            self.pictures = [now]
        elif now and self.rng.random() < 0.4:
            gone = self.rng.choice(sorted(now))
            del now[gone]
            self.pictures.append(now)
            host("uninstall", ProgramArgs(gone))
        else:
            name, version = self.rng.choice("abc"), f"1.{self.rng.randrange(4)}"
            label = f"{ME}/{name}@{version}"
            text = now.get(label, f"x = '{self.rng.choice('pq') * self.rng.choice((1, 100_000))}'")
            self.pictures.append({**now, label: text})
            host("install", Install(name, version, text))

    def check(self, host: Host) -> None:
        """One of the pictures is what is there."""
        found = {}
        for info in host("programs", Programs()).programs:
            label = f"{info.name}@{info.version}"
            found[label] = host("program", ProgramArgs(label)).source
        assert any(found == picture for picture in self.pictures), f"{sorted(found)} is none of {len(self.pictures)} pictures"
        self.pictures = [found]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("point", ["store.begun", "store.written", "store.committed"])
def test_programs_that_were_synced_are_there_after_a_kill(point: str, tmp_path: Path):
    rng = random_for(f"programs at {point}")
    shelf, num_killed = Shelf(rng), 0

    for _ in range(8 * LIVES):
        host = Host(tmp_path, "--crash-at", f"{point}:{rng.randint(3, 25)}")
        try:
            host.connect()
            shelf.check(host)
            for _ in range(MAX_CALLS):
                shelf.step(host)
        except Died:
            num_killed += 1
        host.crash()
        if num_killed == LIVES:
            break

    assert num_killed == LIVES
    host = Host(tmp_path).connect()
    shelf.check(host)
    assert host.stop() == 0
