"""From the event log to an OpenTelemetry collector (edge/spans.py): `symphony serve --otlp-endpoint URL`.

    kernel --strace, processes--> reader (this loop) --> queue, bounded --> thread: exporter, a batch at a time --> collector
                                       a full queue drops the newest and counts them

The reader never waits for the collector, so the kernel never waits for us. What was dropped, failed and exported is counted
(`symphony:trace_spans_total`). The queue and the batches are sized by OTEL_BSP_*, the exporter by OTEL_EXPORTER_OTLP_*.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections import deque
from contextlib import aclosing
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vllm_symphony.abi.calls import NoArgs, Strace, StracePart
from vllm_symphony.edge.credentials import OWN
from vllm_symphony.edge.meter import DOORS
from vllm_symphony.errors import DeviceLost, InvalidArgument, NotSupported, SymphonyError

if TYPE_CHECKING:
    from vllm_symphony.edge.kernel_link import KernelLink
    from vllm_symphony.trace.otel import Spans

PIP = 'pip install "vllm-symphony[otel]"'
AGAIN_S = 0.5  # after the event log's stream broke
CLOSE_S = 5.0  # for what waits when the server stops

_log = logging.getLogger("symphony.edge")


def span_feed(kernel: KernelLink, url: str, protocol: str) -> SpanFeed:
    """Raises InvalidArgument: no URL; NotSupported: the packages are not installed, with the line that does it."""
    where = urlsplit(url)
    if where.scheme not in ("http", "https") or not where.hostname:
        raise InvalidArgument(f"--otlp-endpoint must be like http://127.0.0.1:4317, not {url!r}")
    exporter: Any
    try:
        from vllm_symphony.trace.otel import Spans

        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

            exporter = GrpcExporter(endpoint=url, insecure=where.scheme == "http")
        elif protocol == "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

            exporter = HttpExporter(endpoint=url if where.path.strip("/") else url.rstrip("/") + "/v1/traces")
        else:
            raise InvalidArgument(f"the OTLP protocol is grpc or http/protobuf, not {protocol!r}")
    except ImportError as error:
        raise NotSupported(f"--otlp-endpoint needs OpenTelemetry ({error.name} is not installed): {PIP}") from None
    return SpanFeed(kernel, Spans(version("vllm-symphony")), exporter)


class SpanFeed:
    """Follows one kernel's event log. `run` in the edge's loop; `close` from a thread that may wait."""

    def __init__(self, kernel: KernelLink, spans: Spans, exporter: Any) -> None:
        self._kernel = kernel
        self._spans = spans
        self._outbox = _Outbox(exporter)
        self._next_seq = 0

    async def run(self) -> None:
        """Until the kernel is gone."""
        await self._kernel.opened.wait()
        while True:
            try:
                if not self._next_seq:  # what was before us is not told
                    detail = json.loads((await self._kernel.call("info", NoArgs(), OWN)).json)
                    self._next_seq = 1 + detail["kernel"]["calls_ended"]
                await self._follow()
            except DeviceLost:
                return
            except SymphonyError as error:
                _log.warning("the event log's stream for traces broke, it goes on in a moment: %s", error)
            await asyncio.sleep(AGAIN_S)

    def close(self) -> None:
        """Export what waits, for a while. Idempotent."""
        self._outbox.close(CLOSE_S)

    async def _follow(self) -> None:
        asked = Strace(follow=True, from_seq=self._next_seq, processes=True)
        is_first = True
        async with aclosing(self._kernel.stream("strace", asked, OWN)) as parts:
            async for part in parts:
                if is_first:
                    self._missed(part)
                    is_first = False
                self._take(part)

    def _missed(self, part: StracePart) -> None:
        """Processes that ended while we were cut off: nobody will tell of them."""
        gone = self._spans.running() - {p.pid for p in part.processes}
        for pid in gone:
            self._spans.forget(pid)
        if gone:
            DOORS.spans.add("dropped", by=len(gone))

    def _take(self, part: StracePart) -> None:
        if part.missing:
            DOORS.spans.add("dropped", by=part.missing)
        for process in part.processes:
            if process.ended_ns is None:
                self._spans.began(process)
        for record in part.records:
            self._next_seq = record.seq + 1
            self._outbox.put(self._spans.call(record))
        for process in part.processes:
            if process.ended_ns is not None:
                self._outbox.put(self._spans.ended(process))


class _Outbox:
    """A bounded queue, and the thread that empties it into an exporter."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._max_queued = _number("OTEL_BSP_MAX_QUEUE_SIZE", 8192)
        self._max_batch = _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
        self._delay_s = _number("OTEL_BSP_SCHEDULE_DELAY", 1000) / 1e3
        self._queue: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="symphony-spans", daemon=True)
        self._thread.start()

    def put(self, span: Any | None) -> None:
        """Never waits."""
        if span is None:
            return
        if len(self._queue) >= self._max_queued or self._is_closed:
            DOORS.spans.add("dropped")
            return
        self._queue.append(span)
        if len(self._queue) >= self._max_batch:
            with self._changed:
                self._changed.notify()

    def close(self, timeout_s: float) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("the collector does not answer: %d spans are lost", len(self._queue))
        self._exporter.shutdown()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._is_closed and len(self._queue) < self._max_batch:
                    self._changed.wait(self._delay_s)
                is_last = self._is_closed
            while self._queue:
                self._export([self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))])
            if is_last:
                return

    def _export(self, batch: list[Any]) -> None:
        """The thread's boundary: an exporter that fails costs its batch."""
        try:
            outcome = self._exporter.export(batch).name
        except Exception as error:  # noqa: BLE001
            _log.warning("spans could not be exported: %s", error)
            outcome = "FAILURE"
        DOORS.spans.add("exported" if outcome == "SUCCESS" else "failed", by=len(batch))


def _number(name: str, default: int) -> int:
    """Of an environment variable; a wrong one is the default's."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default
