"""What an edge process tells of itself and of the server (edge/seeing.py): metrics for Prometheus, spans for OpenTelemetry.

open     the metrics door listens, the exporter is loaded: what is wrong with either is said before anything starts
run      counts are reported to the kernel, the event log is followed       as long as the server
close    what waits is exported, for a moment; the door is shut
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_symphony.edge.meter import report
from vllm_symphony.edge.metrics_door import MetricsDoor

if TYPE_CHECKING:
    from vllm_symphony.edge.kernel_link import KernelLink
    from vllm_symphony.edge.spans import SpanFeed
    from vllm_symphony.edge.tls import ServerTls


_log = logging.getLogger("symphony.edge")


@dataclass(frozen=True, slots=True)
class Seen:
    """Who looks. `metrics`: HOST:PORT of the door; `otlp`: the collector's URL; "" where there is none."""

    metrics: str = ""
    otlp: str = ""
    otlp_protocol: str = "grpc"


class Seeing:
    """Made with the edge, closed with it."""

    def __init__(self, seen: Seen, kernel: KernelLink, tls: ServerTls | None = None) -> None:
        """Raises InvalidArgument: an address is none."""
        self._seen = seen
        self._kernel = kernel
        self._door = MetricsDoor(seen.metrics, tls, kernel) if seen.metrics else None
        self._feed: SpanFeed | None = None

    @property
    def addresses(self) -> list[str]:
        return [self._door.address] if self._door is not None else []

    def open(self) -> None:
        """Raises NotSupported: a package is missing; what `MetricsDoor.open` raises."""
        if self._seen.otlp:
            from vllm_symphony.edge.spans import span_feed

            self._feed = span_feed(self._kernel, self._seen.otlp, self._seen.otlp_protocol)
        if self._door is not None:
            self._door.open()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_apart(report(self._kernel)))
            if self._feed is not None:
                tasks.create_task(_apart(self._feed.run()))

    async def close(self) -> None:
        """Idempotent."""
        feed, self._feed = self._feed, None
        if feed is not None:
            with suppress(TimeoutError):
                await asyncio.to_thread(feed.close)
        if self._door is not None:
            await asyncio.to_thread(self._door.close)


async def _apart(work: Coroutine[Any, Any, None]) -> None:
    """A boundary: whoever only looks must not end the server."""
    try:
        await work
    except Exception:  # noqa: BLE001
        _log.exception("metrics or traces have ended, the server goes on")
