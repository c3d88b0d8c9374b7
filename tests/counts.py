"""How much the tests do, and from which seed.

SYMPHONY_TEST_COUNTS=full    every draw, run and seed that the claims speak of (`make soak`); else a reduced number
SYMPHONY_SEED=n              the seed of everything random in the tests; printed in pytest's header, so that a failure repeats

draws = count(5_000, 100_000)
rng = random_for("chi-square of top-k")
"""

import os
import random
import time
from hashlib import blake2b

FULL = os.environ.get("SYMPHONY_TEST_COUNTS") == "full"
# xdist's workers inherit the variable, so all of a run share the seed.
SEED = int(os.environ.setdefault("SYMPHONY_SEED", str(time.time_ns() % 1_000_000 if FULL else 1)))


def count(reduced: int, full: int) -> int:
    """`reduced` in `make test`, `full` in `make soak`."""
    return full if FULL else reduced


def seed_for(name: str) -> int:
    """A seed of its own for each named use: tests don't disturb each other's draws."""
    return int.from_bytes(blake2b(f"{SEED}/{name}".encode(), digest_size=6).digest(), "little")


def random_for(name: str) -> random.Random:
    """A generator seeded by `seed_for(name)`."""
    return random.Random(seed_for(name))
