"""Processes and calls as OpenTelemetry's spans (trace/otel.py).

    traceparent of the caller   00-<trace>-<span>-01
        `-- program best_of_n            pid 12: from its start to its end
              |-- spawn, wait, ...       its calls, each with the engine steps that worked on it
              |-- program draft          pid 13, a child
              `- - link - - - - - - - -> program watcher: detached, so it is a trace of its own

A span is made when what it stands for has ended; its id comes from pid or number, so children know their parent's before. Sessions
are processes too. Spans hold names, numbers and results: no tokens, texts, arguments or paths, which the event log does not have
either or which stay there. At most `MAX_CALLS` calls of a process become spans; its own span says how many did not.
Source: opentelemetry-sdk 1.x `ReadableSpan`, `Sampler` (OTEL_TRACES_SAMPLER), `Resource` (OTEL_RESOURCE_ATTRIBUTES,
OTEL_SERVICE_NAME).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context

from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import CallRecord, ProcessRecord
from vllm_symphony.trace.context import parse

MAX_CALLS = 2000  # spans of one process's calls
KEPT = 4096  # processes that have ended whose late calls are still known
SAMPLED, NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


@dataclass(slots=True)
class _Traced:
    """A process whose calls are seen."""

    record: ProcessRecord
    context: SpanContext
    parent: SpanContext | None
    is_sampled: bool
    links: tuple[Link, ...] = ()
    num_calls: int = 0
    left_out: int = field(default=0)


class Spans:
    """What is known of the processes that run; one of each server that is followed."""

    def __init__(self, version: str, resource: dict[str, Any] | None = None) -> None:
        """`resource`: attributes of the server, beside those of the environment."""
        named = {"service.name": "symphony", "service.version": version, **(resource or {})}
        provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self.resource, self._sampler = provider.resource, provider.sampler
        self._scope = InstrumentationScope("vllm_symphony", version)
        self._key = secrets.token_bytes(16)
        self._running: dict[int, _Traced] = {}
        self._ended: OrderedDict[int, _Traced] = OrderedDict()

    def running(self) -> set[int]:
        """Pids that have not ended, as far as was told."""
        return set(self._running)

    def forget(self, pid: int) -> None:
        """Its end was missed."""
        self._running.pop(pid, None)

    def began(self, record: ProcessRecord) -> None:
        """A process, before its calls; told twice it counts once."""
        if record.pid in self._running or record.pid in self._ended:
            return
        named, above = parse(record.traceparent), self._of(record.spawner) if record.spawner is not None else None
        links: tuple[Link, ...] = ()
        parent: SpanContext | None = None
        if named is not None:
            flags = SAMPLED if named.is_sampled else NOT_SAMPLED
            parent = SpanContext(named.trace_id, named.span_id, is_remote=True, trace_flags=flags)
        elif above is not None and not record.detached:
            parent = above.context
        elif above is not None:
            links = (Link(above.context),)
        trace_id = parent.trace_id if parent is not None else self._id(16, "trace", record.pid)
        if above is not None and parent is above.context:
            is_sampled = above.is_sampled
        else:
            context = set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
            found = self._sampler.should_sample(context, trace_id, record.kind, SpanKind.SERVER)
            is_sampled = found.decision is Decision.RECORD_AND_SAMPLE
        flags = SAMPLED if is_sampled else NOT_SAMPLED
        own = SpanContext(trace_id, self._id(8, "process", record.pid), is_remote=False, trace_flags=flags)
        self._running[record.pid] = _Traced(record, own, parent, is_sampled, links)

    def call(self, record: CallRecord) -> ReadableSpan | None:
        """A call that has ended; None where it becomes no span."""
        traced = self._of(record.pid)
        if traced is None or not traced.is_sampled:
            return None
        traced.num_calls += 1
        if traced.num_calls > MAX_CALLS:
            traced.left_out += 1
            return None
        spec = CALLS.get(record.op)
        attributes: dict[str, Any] = {
            "symphony.pid": record.pid, "symphony.tid": record.tid, "symphony.seq": record.seq, "symphony.result": record.result,
            "symphony.call.kind": spec.kind if spec is not None else "other",
        }  # fmt: skip
        if record.step_first is not None and record.step_last is not None:
            attributes |= {"symphony.step.first": record.step_first, "symphony.step.last": record.step_last}
        context = SpanContext(traced.context.trace_id, self._id(8, "call", record.seq), is_remote=False, trace_flags=SAMPLED)
        status = Status(StatusCode.UNSET) if record.result == "ok" else Status(StatusCode.ERROR, record.result)
        name = record.op if spec is not None else "unknown call"
        return self._span(name, context, traced.context, attributes, status, record.t_start_ns, record.t_end_ns, SpanKind.INTERNAL)

    def ended(self, record: ProcessRecord) -> ReadableSpan | None:
        """The process has ended."""
        self.began(record)  # one whose beginning was missed
        traced = self._running.pop(record.pid, None)
        if traced is None:
            return None
        self._ended[record.pid] = traced
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)
        if not traced.is_sampled:
            return None
        attributes: dict[str, Any] = {
            "symphony.pid": record.pid, "symphony.kind": record.kind, "symphony.name": record.name,
            "symphony.principal": record.principal, "symphony.program": record.program, "symphony.runtime": record.runtime,
            "symphony.exit.code": record.code, "symphony.exit.reason": record.reason, "symphony.calls": traced.num_calls,
            "symphony.calls.left_out": traced.left_out,
        }  # fmt: skip
        if record.spawner is not None:
            attributes["symphony.parent.pid"] = record.spawner
        status = Status(StatusCode.UNSET) if record.code == 0 else Status(StatusCode.ERROR, record.reason)
        end_ns = record.ended_ns or record.started_ns
        name = f"{record.kind} {record.name}"
        return self._span(
            name, traced.context, traced.parent, attributes, status, record.started_ns, end_ns, SpanKind.SERVER, traced.links
        )

    def _of(self, pid: int | None) -> _Traced | None:
        return None if pid is None else self._running.get(pid) or self._ended.get(pid)

    def _id(self, num_bytes: int, *of: str | int) -> int:
        """A number from what it is of; never 0, which means none."""
        digest = blake2b(":".join(map(str, of)).encode(), digest_size=num_bytes, key=self._key).digest()
        return int.from_bytes(digest, "big") or 1

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Any],
        status: Status,
        start_ns: int,
        end_ns: int,
        kind: SpanKind,
        links: tuple[Link, ...] = (),
    ) -> ReadableSpan:
        shown = {key: value for key, value in attributes.items() if value not in ("", None)}
        return ReadableSpan(
            name, context, parent, self.resource, shown, links=links, kind=kind, status=status, start_time=start_ns,
            end_time=max(start_ns, end_ns), instrumentation_scope=self._scope,
        )  # fmt: skip
