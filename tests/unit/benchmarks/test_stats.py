"""Statistics that figures are made of."""

import os
import subprocess
import sys

import pytest

from benchmarks.stats import Pairs, cpu_time_s, in_rounds, median, paired, percentile, spread


def test_percentiles_are_linear_between_samples():
    samples = [4.0, 1.0, 3.0, 2.0]

    assert [percentile(samples, p) for p in (0, 25, 50, 75, 100)] == [1.0, 1.75, 2.5, 3.25, 4.0]
    assert median(samples) == 2.5
    assert percentile([7.0], 99) == 7.0


def test_no_samples_have_no_percentile():
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_spread_is_relative_to_the_median():
    assert spread([5.0, 5.0, 5.0]) == 0
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


def test_pairs_alternate_their_order_after_the_warm_up():
    order = []

    pairs = paired(lambda: order.append("a") or 2.0, lambda: order.append("b") or 1.0, 4, warm_up=1)

    assert "".join(order) == "ab" + "abba" * 2
    assert (len(pairs.a), len(pairs.b), pairs.ratio) == (4, 4, 2.0)


def test_a_slow_minute_leaves_the_ratio_alone():
    """The machine gets three times slower in the middle; both sides of a pair feel it."""
    pairs = Pairs(a=[1.1, 1.1, 3.3, 3.3, 1.1], b=[1.0, 1.0, 3.0, 3.0, 1.0])

    assert pairs.ratio == pytest.approx(1.1)
    assert spread(pairs.ratios) < 1e-9


def test_cpu_time_counts_children_that_ended():
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    before = cpu_time_s(os.getpid())

    subprocess.run([sys.executable, "-c", burn], check=True)

    assert 0.15 < cpu_time_s(os.getpid()) - before < 5


def test_cpu_time_of_a_process_that_is_gone_is_zero():
    child = subprocess.Popen(["true"])
    child.wait()

    assert cpu_time_s(child.pid) == 0


def test_rounds_change_who_goes_first_and_the_direction():
    order = []
    sides = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}

    found = in_rounds(sides, 4)

    assert "".join(order) == "abc" + "acb" + "cab" + "cba"
    assert found["a"] == [1, 4, 8, 12]
