"""What the machine counts, and how a count becomes samples (trace/metric.py). All metrics by name: trace/metrics.py.

    Metric    name, kind, help, labels with all their values            the registry, and docs/metrics.md
    Counts    label values -> number                                    what the kernel, the engine and the doors hold
    Histogram bounds, one number a bucket, a sum                        an observation: one bisection, two additions
    samples   ("symphony:calls_total", 3.0, {"call": "open", ...})      what crosses the line: abi/types.py `MetricSample`

Counting is on the path of every call, so it is an addition to a number in a dict; names and labels are put to it when somebody
looks. A label has a bounded set of values, written down here: a pid, a principal or a path is none. What is not in the set is
counted as `other`, so that nothing that a program can say makes a series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from math import prod

from vllm_symphony.abi.types import MetricSample

OTHER = "other"  # a label's value for all that its set does not have
SHOWN = 8  # series of a metric that are there from the start
SUFFIX = {"counter": "_total", "gauge": "", "histogram": ""}


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric. `kind`: counter, gauge, histogram. `name` is without `_total`; `labels`: each with all its values, None: one that
    is told at the start (a version). `by`: who counts it, `server` (kernel and engine) or `door`."""

    name: str
    kind: str
    help: str
    labels: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    unit: str = ""
    bounds: tuple[float, ...] = ()
    by: str = "server"

    @property
    def sample_names(self) -> tuple[str, ...]:
        """What its samples are called, and queries."""
        if self.kind == "histogram":
            return tuple(self.name + part for part in ("_bucket", "_sum", "_count"))
        return (self.name + SUFFIX[self.kind],)

    def knows(self, sample: MetricSample) -> bool:
        """Whether it is one of this metric's, with labels that it has and values of them that are known."""
        labels = dict(sample.labels)
        if sample.name == f"{self.name}_bucket" and self.kind == "histogram" and labels.pop("le", None) is None:
            return False
        return (
            sample.name in self.sample_names
            and labels.keys() == self.labels.keys()
            and all(values is None or labels[label] in values for label, values in self.labels.items())
        )

    def sample(self, value: float, *labels: str) -> MetricSample:
        """One of a gauge or a counter."""
        return MetricSample(self.sample_names[0], float(value), dict(zip(self.labels, labels, strict=True)))


class Counts(dict[tuple[str, ...], float]):
    """The numbers of one metric, by the values of its labels."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def add(self, *labels: str, by: float = 1) -> None:
        self[labels] = self.get(labels, 0) + by

    def samples(self) -> Iterator[MetricSample]:
        """Those that were counted; where there are few, those too that were not, as 0: a rate needs a number to begin at."""
        known = list(self.metric.labels.values())
        few = prod(SHOWN + 1 if of is None else len(of) for of in known) <= SHOWN
        together: dict[tuple[str, ...], float] = dict.fromkeys(product(*(of or () for of in known)), 0.0) if few else {}
        for labels, value in list(self.items()):
            shown = tuple(v if of is None or v in of else OTHER for v, of in zip(labels, known, strict=True))
            together[shown] = together.get(shown, 0) + value
        for labels, value in together.items():
            yield self.metric.sample(value, *labels)


class Histogram:
    """How often a value lay between which bounds. `scale` turns what is observed (nanoseconds) into the metric's unit."""

    __slots__ = ("_bounds", "_counts", "_total", "labels", "metric", "scale")

    def __init__(self, metric: Metric, *labels: str, scale: float = 1.0) -> None:
        self.metric = metric
        self.labels = labels
        self.scale = scale
        self._bounds = [bound / scale for bound in metric.bounds]
        self._counts = [0] * (len(metric.bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def samples(self) -> Iterator[MetricSample]:
        """Buckets that hold all below their bound, the sum, the count."""
        name, labels = self.metric.name, dict(zip(self.metric.labels, self.labels, strict=True))
        counts, total = self._counts[:], self._total
        for bound, count in zip((*map(str, map(float, self.metric.bounds)), "+Inf"), accumulate(counts), strict=True):
            yield MetricSample(f"{name}_bucket", float(count), {**labels, "le": bound})
        yield MetricSample(f"{name}_sum", total * self.scale, labels)
        yield MetricSample(f"{name}_count", float(sum(counts)), labels)


def added(groups: Iterable[Sequence[MetricSample]]) -> list[MetricSample]:
    """Samples of several who count the same, as one: of each name and labels the sum, in the order of first mention."""
    total: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for group in groups:
        for sample in group:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            total[key] = total.get(key, 0.0) + sample.value
    return [MetricSample(name, value, dict(labels)) for (name, labels), value in total.items()]
