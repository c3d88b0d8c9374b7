"""SIGKILL of the real kernel host on the simulator, at points of a write and by time. After each life the next one shows all that
was synced, whole and readable, and nothing half-written (tests/store/workload.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.counts import count, random_for
from tests.store.host import Died, Host
from tests.store.workload import Kept, Workload
from vllm_symphony.abi.types import unpack_tokens
from vllm_symphony.engine.sim import SimModel

MODEL = SimModel()
MAX_CALLS = 60  # of one life
POINTS = (
    "store.begun", "store.written", "store.committed", "segment.page", "segment.written", "segment.synced", "segment.renamed",
    "segment.visible",
)  # fmt: skip
LIVES_EACH = count(1, 22)  # of each point, and twice as many by time


def is_what_the_model_says(file: Kept, row: Any) -> None:
    """The most likely token after the file's is the one that the made-up model computes from scratch."""
    entries = [(token, index) for index, token in enumerate(file.tokens)]
    assert unpack_tokens(row.ids)[0] == int(MODEL.row(entries[-3:]).argmax())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", [*POINTS, "time"])
def test_whatever_was_synced_is_there_after_a_kill(how: str, tmp_path: Path):
    rng = random_for(f"crashes at {how}")
    work = Workload(rng)
    num_lives = LIVES_EACH * (2 if how == "time" else 1)
    num_killed, life, has_begun = 0, 0, False

    while num_killed < num_lives:
        life += 1
        assert life < 8 * num_lives + 40, f"{how} was reached in {num_killed} of {life - 1} lives"
        words = () if how == "time" else ("--crash-at", f"{how}:{rng.randint(3, count(8, 30))}")
        host = Host(tmp_path, *words)
        try:
            host.connect()
            if has_begun:
                work.check(host, is_what_the_model_says)
            else:
                work.begin(host)
                has_begun = True
            if how == "time":
                host.kill_after(rng.uniform(0.005, 0.3))
            for _ in range(MAX_CALLS if how != "time" else 10_000):
                work.step(host)
        except Died:
            num_killed += 1
        host.crash()

    host = Host(tmp_path).connect()
    work.check(host, is_what_the_model_says)
    assert host.stop() == 0
