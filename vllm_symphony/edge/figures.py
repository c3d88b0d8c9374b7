"""Our numbers as prometheus_client has them (edge/figures.py).

    samples (the kernel's `metrics`) -> Figures.collect -> families with help, type and unit -> any of its expositions

One collector for both doors: our own (edge/metrics_door.py) and vLLM's `/metrics` (web/metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from vllm_symphony.abi.types import MetricSample
from vllm_symphony.trace.metrics import METRICS, SAMPLES


class Figures(Collector):
    """What `look` gives, by metric."""

    def __init__(self, look: Callable[[], Iterable[MetricSample]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for sample in self._look():
            metric = SAMPLES.get(sample.name)
            if metric is None:  # of a newer kernel
                continue
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = Family(metric.name, metric.help, metric.kind, metric.unit)
            family.add_sample(sample.name, sample.labels, sample.value)
        yield from families.values()

    def describe(self) -> list[Family]:
        """The names that there may be, without asking the kernel."""
        return [Family(metric.name, metric.help, metric.kind, metric.unit) for metric in METRICS.values()]


def with_colons(accept: str) -> str:
    """An `Accept` header for which prometheus_client leaves the colons in names of samples. Without a word on escaping, as
    Prometheus 2 and most others send it, 0.22 to 0.26 make `vllm_x` of `vllm:x` in OpenMetrics, and only in the samples."""
    parts = accept.split(",")
    return ",".join(
        f"{part};escaping=allow-utf-8" if "openmetrics-text" in part and "version=" in part and "escaping=" not in part else part
        for part in parts
    )
