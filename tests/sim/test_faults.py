"""The examples under faults: calls that fail, programs that are killed, slow steps, a cache that is too small; nothing is left."""

import random
from pathlib import Path

import pytest

from tests.counts import count, seed_for
from vllm_symphony import lip
from vllm_symphony.testing import Machine

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
OPS = ("open", "fork", "forward", "generate", "sample", "read", "append", "truncate", "detokenize", "close", "wait", "spawn")


def trouble(m: Machine, rng: random.Random) -> None:
    """A few faults, stacked."""
    errors = (lip.OutOfPages("no page is free"), lip.TimedOut("too slow"), lip.Interrupted("cancelled"), lip.DeviceLost("gone"))
    for _ in range(rng.randrange(3)):
        m.fail(rng.choice(OPS), rng.choice(errors), nth=rng.randrange(1, 40), times=rng.choice([1, 3, None]), chance=rng.random())
    for _ in range(rng.randrange(3)):
        m.kill_at(rng.choice([None, *OPS]), nth=rng.randrange(1, 200))
    if rng.random() < 0.5:
        m.slow(100.0, chance=0.1)


def play(seed: int) -> list[tuple[int, int | None, str]]:
    """Six programs at once; how each ended. What is left is an error."""
    rng = random.Random(seed)
    with Machine(seed=seed, num_pages=rng.choice([20, 60, 1000]), page_size=8) as m:
        for name in rng.choices(NAMES, k=6):
            m.start(EXAMPLES / f"{name}.py", **({"question": "Who?"} if name == "best_of_n" else {}))
        trouble(m, rng)
        m.advance(rng.choice([0.0, 0.05, 0.5]))
        m.check()
        m.run()
        m.check_idle()
        return [(run.pid, run.status and run.status.code, str(run.error)) for run in m.runs.values()]


@pytest.mark.parametrize("n", range(count(25, 2000)))
def test_whatever_goes_wrong_nothing_is_left(n):
    play(seed_for(f"faults {n}"))


def test_a_run_with_faults_repeats_from_its_seed():
    seed = seed_for("a run with faults")

    assert play(seed) == play(seed)


def test_the_faults_are_felt():
    codes = {code for n in range(12) for _, code, _ in play(seed_for(f"faults {n}"))}

    assert {0, 1, 137} <= codes
