"""SIGKILL of the real engine's kernel host: what was synced comes back with its pages, and gives the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.counts import count, random_for
from tests.store.host import Died, Host
from tests.store.workload import Kept, Workload
from tests.tiny import TINY
from vllm_symphony.abi.calls import FdArgs, Forward, Open
from vllm_symphony.abi.types import OpenFlags, pack_tokens, unpack_floats, unpack_tokens

FLAGS = (
    str(TINY), "--dtype", "float32", "--max-model-len", "2048", "--block-size", "32", "--num-gpu-blocks-override", "129",
    "--kv-cache-memory-bytes", str(1 << 27), "--enforce-eager", "--seed", "0",
)  # fmt: skip
POINTS = ("store.written", "segment.page", "segment.synced", "segment.renamed", "time")
MAX_CALLS = 60


def rows_are_those_of_a_new_file(host: Host) -> Any:
    """What a file's pages from the disk give is what its tokens give when they are computed now."""

    def check(file: Kept, row: Any) -> None:
        if file.edited:
            return
        fd = host("open", Open(tokens=pack_tokens(file.tokens), flags=OpenFlags.RDWR)).fd
        fresh = host("forward", Forward(fd, b"")).distributions[0]
        host("close", FdArgs(fd))
        assert unpack_tokens(row.ids)[0] == unpack_tokens(fresh.ids)[0]
        assert max(abs(a - b) for a, b in zip(unpack_floats(row.logprobs), unpack_floats(fresh.logprobs), strict=True)) < 1e-4

    return check


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_was_synced_on_the_real_engine_is_there_after_a_kill(tmp_path: Path):
    rng = random_for("crashes of the engine")
    work, has_begun, num_killed = Workload(rng), False, 0
    num_lives = count(1, 10)

    while num_killed < num_lives:
        how = POINTS[num_killed % len(POINTS)] if num_lives > 1 else "segment.synced"
        words = () if how == "time" else ("--crash-at", f"{how}:{rng.randint(2, 8)}")
        host = Host(tmp_path, *words, device="engine", model=FLAGS)
        try:
            host.connect()
            if has_begun:
                work.check(host, rows_are_those_of_a_new_file(host))
            else:
                work.begin(host)
                has_begun = True
            if how == "time":
                host.kill_after(rng.uniform(0.05, 2.0))
            for _ in range(MAX_CALLS if how != "time" else 10_000):
                work.step(host)
        except Died:
            num_killed += 1
        host.crash()

    host = Host(tmp_path, device="engine", model=FLAGS).connect()
    work.check(host, rows_are_those_of_a_new_file(host))
    assert host.stop() == 0
