"""Counts and histograms become samples; the registry keeps its own rules."""

import re

import pytest

from vllm_symphony.abi.types import MetricSample
from vllm_symphony.trace.metric import OTHER, Counts, Histogram, Metric, added
from vllm_symphony.trace.metrics import METRICS, SAMPLES

FRUIT = Metric("symphony:fruit", "counter", "Fruit.", {"kind": ("apple", "pear", OTHER)})
BARE = Metric("symphony:bare", "counter", "Bare.")
SIZE = Metric("symphony:size_seconds", "histogram", "Size.", {"kind": ("apple", OTHER)}, "seconds", (0.1, 1.0))
MAY_NAME = {"call", "policy", "reason", "tier", "state", "kind", "door", "code", "version", "abi", "vllm", "torch", "python"}


def test_what_was_counted_is_a_sample_by_its_labels():
    counts = Counts(FRUIT)
    counts.add("apple")
    counts.add("apple", by=2)
    counts.add("pear")

    assert list(counts.samples()) == [
        MetricSample("symphony:fruit_total", 3.0, {"kind": "apple"}), MetricSample("symphony:fruit_total", 1.0, {"kind": "pear"}),
        MetricSample("symphony:fruit_total", 0.0, {"kind": OTHER}),
    ]  # fmt: skip


def test_a_value_that_a_label_does_not_have_is_other():
    counts = Counts(FRUIT)
    counts.add("/home/ann/secret.kv")
    counts.add("pid 12")

    assert {s.labels["kind"]: s.value for s in counts.samples()} == {"apple": 0, "pear": 0, OTHER: 2}


def test_a_metric_with_few_series_has_them_before_its_first_count():
    assert list(Counts(BARE).samples()) == [MetricSample("symphony:bare_total", 0.0)]
    assert [s.value for s in Counts(FRUIT).samples()] == [0, 0, 0]
    assert list(Counts(METRICS["symphony:calls"]).samples()) == []


def test_a_bucket_holds_all_below_its_bound_also_when_another_unit_is_observed():
    histogram = Histogram(SIZE, "apple", scale=1e-9)
    for nanoseconds in (1, 10**8, 2 * 10**8, 5 * 10**9):
        histogram.observe(nanoseconds)

    found = {(s.name, s.labels.get("le")): s.value for s in histogram.samples()}
    assert found[("symphony:size_seconds_bucket", "0.1")] == 2
    assert found[("symphony:size_seconds_bucket", "1.0")] == 3
    assert found[("symphony:size_seconds_bucket", "+Inf")] == found[("symphony:size_seconds_count", None)] == 4
    assert found[("symphony:size_seconds_sum", None)] == pytest.approx(5.300000001)


def test_samples_of_two_doors_are_added_by_name_and_labels():
    one = [MetricSample("a", 1.0, {"x": "1"}), MetricSample("a", 2.0, {"x": "2"})]
    two = [MetricSample("a", 5.0, {"x": "1"}), MetricSample("b", 1.0)]

    assert added([one, two]) == [MetricSample("a", 6.0, {"x": "1"}), MetricSample("a", 2.0, {"x": "2"}), MetricSample("b", 1.0)]


@pytest.mark.parametrize(
    ("sample", "known"),
    [
        (MetricSample("symphony:fruit_total", 1.0, {"kind": "pear"}), True),
        (MetricSample("symphony:fruit_total", 1.0, {"kind": "plum"}), False),
        (MetricSample("symphony:fruit_total", 1.0), False),
        (MetricSample("symphony:fruit_total", 1.0, {"kind": "pear", "pid": "1"}), False),
        (MetricSample("symphony:fruit", 1.0, {"kind": "pear"}), False),
    ],
)
def test_a_metric_knows_its_own_samples(sample, known):
    assert FRUIT.knows(sample) is known


def test_a_histogram_knows_its_buckets():
    histogram = Histogram(SIZE, "apple")

    assert all(SIZE.knows(sample) for sample in histogram.samples())
    assert not SIZE.knows(MetricSample("symphony:size_seconds_bucket", 1.0, {"kind": "apple"}))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_of_ours_has_a_name_in_base_units_and_labels_that_are_bounded(metric):
    assert re.fullmatch(r"symphony:[a-z][a-z_]*[a-z]", metric.name) and not metric.name.endswith(
        ("_total", "_bucket", "_sum", "_count")
    )
    assert metric.kind in ("counter", "gauge", "histogram")
    assert len(metric.help) > 8 and metric.help.endswith(".")
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}"), "as OpenMetrics wants it"
    assert not re.search(r"_(ms|us|ns|kb|mb|minutes)$", metric.name)
    assert metric.labels.keys() <= MAY_NAME and len(metric.labels) <= 5
    assert (metric.kind == "histogram") == bool(metric.bounds) and list(metric.bounds) == sorted(set(metric.bounds))
    for values in metric.labels.values():
        assert values is None or (len(set(values)) == len(values) <= 110)


def test_no_two_metrics_have_a_sample_of_the_same_name():
    assert len(SAMPLES) == sum(len(metric.sample_names) for metric in METRICS.values())
