"""metrics: what the server counts (kernel/syscall/metric.py).

    kernel's own + host's (engine, store, fork servers) + what each edge has reported = one flat list of samples

Edges report with the same call by which they ask: so one door shows what all of them have counted. What an edge reports replaces
what it said before, and goes when it is gone.
"""

from __future__ import annotations

from vllm_symphony.abi.calls import Metrics, MetricsResult
from vllm_symphony.errors import InvalidArgument, NotOwner
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind
from vllm_symphony.kernel.syscall.view import demand_door
from vllm_symphony.trace.metric import added
from vllm_symphony.trace.metrics import SAMPLES

MAX_REPORTED = 4096  # samples of one edge


def metrics(m: Machine, call: Call, a: Metrics) -> MetricsResult:
    """Take the report of an edge; give all numbers."""
    demand_door(call)
    if not call.cred.is_admin:
        raise NotOwner("metrics are of all principals together: they need scope admin", scope="admin")
    if a.reported:
        _take(m, call, a)
    return MetricsResult((*m.meter.samples(m, call.start_ns), *m.host_samples(), *added(m.reports.values())))


def _take(m: Machine, call: Call, a: Metrics) -> None:
    """Remember a report. Raises NotOwner, InvalidArgument."""
    if call.process.kind is not Kind.EDGE:
        raise NotOwner("only an edge reports what it counts")
    if len(a.reported) > MAX_REPORTED:
        raise InvalidArgument(f"{len(a.reported)} samples, the most is {MAX_REPORTED}", limit=MAX_REPORTED)
    for sample in a.reported:
        metric = SAMPLES.get(sample.name)
        if metric is None or metric.by != "door" or not metric.knows(sample):
            raise InvalidArgument(f"no metric of a door: {sample.name[:64]} with labels {', '.join(sample.labels)[:128]}")
    m.reports[call.process.pid] = a.reported
