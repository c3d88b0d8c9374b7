"""What this process counts at its doors, and how the kernel hears of it (edge/meter.py).

    RPCs, HTTP requests, refusals, log lines --> DOORS --`metrics` call, now and then--> kernel: adds all doors up

`DOORS` is the process's one, as logging's root is: whoever refuses a request or writes a log is far from whoever shows the
numbers. All in one event loop, but for log lines, whose counts the interpreter's lock keeps whole enough: one may be lost.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import Metrics
from vllm_symphony.abi.types import MetricSample
from vllm_symphony.edge.credentials import OWN
from vllm_symphony.errors import SymphonyError
from vllm_symphony.trace import metrics
from vllm_symphony.trace.metric import Counts, Histogram

if TYPE_CHECKING:
    from vllm_symphony.edge.kernel_link import KernelLink

REPORT_S = 5.0  # between two reports, where anything has changed
ANSWER_S = 5.0  # the kernel answers in a millisecond; this long is a kernel in trouble


class DoorMeter:
    """Counts of one process's doors."""

    def __init__(self) -> None:
        self.requests = Counts(metrics.REQUESTS)
        self.in_flight = Counts(metrics.REQUESTS_IN_FLIGHT)
        self.seconds = {door: Histogram(metrics.REQUEST_SECONDS, door) for door in metrics.DOOR}
        self.refused = Counts(metrics.DOOR_REFUSED)
        self.audit = Counts(metrics.AUDIT)
        self.log_lines = Counts(metrics.LOG_LINES)
        self.spans = Counts(metrics.TRACE_SPANS)

    def began(self, door: str) -> None:
        self.in_flight.add(door)

    def ended(self, door: str, code: str, seconds: float | None) -> None:
        """A request that `began` was answered; `seconds` None: a stream, whose length says nothing."""
        self.in_flight.add(door, by=-1)
        self.requests.add(door, code)
        if seconds is not None:
            self.seconds[door].observe(seconds)

    def samples(self) -> tuple[MetricSample, ...]:
        """All numbers of this process."""
        counts = (self.requests, self.in_flight, self.refused, self.audit, self.log_lines, self.spans)
        found = [sample for count in counts for sample in count.samples()]
        for door, histogram in self.seconds.items():
            if (door,) in self.in_flight:
                found += histogram.samples()
        return tuple(found)


DOORS = DoorMeter()


class CountLines(logging.Handler):
    """Counts log lines by level; writes none."""

    def emit(self, record: logging.LogRecord) -> None:
        DOORS.log_lines.add(record.levelname.lower())


async def fresh(kernel: KernelLink) -> tuple[MetricSample, ...]:
    """All numbers of the server, as they are now; where the kernel does not answer, those of this process alone."""
    own = DOORS.samples()
    try:
        async with asyncio.timeout(ANSWER_S):
            samples: tuple[MetricSample, ...] = (await kernel.call("metrics", Metrics(own), OWN)).samples
            return samples
    except (SymphonyError, TimeoutError):
        return own


async def report(kernel: KernelLink) -> None:
    """Tell the kernel what is counted here, for the doors of other processes; to be run as long as the server."""
    said: tuple[MetricSample, ...] = ()
    while True:
        await asyncio.sleep(REPORT_S)
        own = DOORS.samples()
        if own != said:
            with suppress(SymphonyError):
                await kernel.call("metrics", Metrics(own), OWN)
                said = own
