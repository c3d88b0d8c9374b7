"""Runs by chance, and the shortest one that fails (tests/model/kvfs/search.py)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from random import Random

from tests.model.kvfs.chance import Chance
from tests.model.kvfs.driver import Op, Run

CHECK_EVERY = 25  # of the device: it walks all pages
SHRINK_S = 60.0


def run_random(seed: int, num_ops: int) -> None:
    """Raises AssertionError with the operations of a short run that fails as this one does, by difference or by crash."""
    rng = Random(seed)
    num_pages = rng.choice((16, 30, 60, 400))
    run = Run(num_pages)
    chance = Chance(rng, run)
    done: list[Op] = []
    try:
        for number in range(num_ops):
            done.append(chance.next())
            run.do(done[-1])
            if number % CHECK_EVERY == 0:
                run.rig.check()
        run.close()
    except Exception as error:
        short = shrink(done, num_pages, kind_of(error))
        lines = "\n".join(f"    {op}," for op in short)
        raise AssertionError(f"seed {seed}, {num_pages} pages, after {len(done)} operations: {error!r}\n{lines}") from error
    finally:
        run.rig.close()


def kind_of(error: Exception) -> str:
    """What a shorter run must fail with too."""
    return re.sub(r"\d+", "#", str(error))[:40]


def run_all(ops: Sequence[Op], num_pages: int) -> None:
    """All of them, on a machine of their own, looked at after each."""
    run = Run(num_pages)
    try:
        for op in ops:
            run.do(op)
            run.rig.check()
        run.close()
    finally:
        run.rig.close()


def fails(ops: Sequence[Op], num_pages: int, kind: str) -> bool:
    try:
        run_all(ops, num_pages)
    except Exception as error:  # noqa: BLE001  whatever it is
        return kind_of(error) == kind
    return False


def shrink(ops: Sequence[Op], num_pages: int, kind: str) -> list[Op]:
    """Leave out what is not needed: halves, quarters, ... single operations, as long as there is time."""
    short = list(ops)
    end = time.monotonic() + SHRINK_S
    size = len(short) // 2
    while size and time.monotonic() < end:
        at = 0
        while at < len(short) and time.monotonic() < end:
            fewer = short[:at] + short[at + size :]
            if fails(fewer, num_pages, kind):
                short = fewer
            else:
                at += size
        size //= 2
    return short
