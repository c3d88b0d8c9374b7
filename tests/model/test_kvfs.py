"""The file system against a model of it: random operations of many principals, the same answer or the same error from both."""

import pytest

from tests.counts import count, seed_for
from tests.model.kvfs.search import run_random

NUM_RUNS = 20


@pytest.mark.parametrize("number", range(NUM_RUNS))
def test_any_sequence_of_operations_is_as_the_model_says(number: int) -> None:
    run_random(seed_for(f"kvfs {number}"), num_ops=count(300, 6000))
