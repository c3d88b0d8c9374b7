"""Records of the event log as OpenTelemetry's spans: whose children they are, what they say, where they end."""

from dataclasses import replace

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from vllm_symphony.abi.types import CallRecord, ProcessRecord
from vllm_symphony.trace import otel
from vllm_symphony.trace.otel import Spans

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID, SPAN_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
PROGRAM = ProcessRecord(1, 12, "program", "best_of_n", "ann", None, 1000)
CALL = CallRecord(5, 12, 0, "forward", "fd=3 path=/home/ann/secret.kv", "ok", 1100, 1200, 7, 9)


def ended(record: ProcessRecord, code: int = 0, reason: str = "exit") -> ProcessRecord:
    return replace(record, ended_ns=2000, code=code, reason=reason)


def run(*records: ProcessRecord | CallRecord, spans: Spans | None = None) -> dict[str, ReadableSpan]:
    """The spans, by name; processes begin and end as their records say."""
    spans = spans or Spans("1.0")
    found = []
    for record in records:
        if isinstance(record, CallRecord):
            found.append(spans.call(record))
        elif record.ended_ns is None:
            spans.began(record)
        else:
            found.append(spans.ended(record))
    return {span.name: span for span in found if span is not None}


def test_a_call_is_a_child_of_its_process_and_says_its_steps():
    found = run(PROGRAM, CALL, ended(PROGRAM))
    call, process = found["forward"], found["program best_of_n"]

    assert call.parent.span_id == process.context.span_id and call.context.trace_id == process.context.trace_id
    assert (call.start_time, call.end_time, process.start_time, process.end_time) == (1100, 1200, 1000, 2000)
    assert (call.attributes["symphony.step.first"], call.attributes["symphony.step.last"]) == (7, 9)
    assert process.parent is None and process.attributes["symphony.calls"] == 1


def test_a_span_holds_no_arguments_and_no_paths():
    for span in run(PROGRAM, CALL, ended(PROGRAM)).values():
        assert "secret" not in span.to_json() and "fd=3" not in span.to_json()


def test_a_process_continues_its_callers_trace():
    named = replace(PROGRAM, traceparent=TRACE)
    found = run(named, CALL, ended(named))["program best_of_n"]

    assert (found.context.trace_id, found.parent.span_id, found.parent.is_remote) == (TRACE_ID, SPAN_ID, True)


def test_a_trace_that_its_caller_does_not_sample_is_not_exported():
    named = replace(PROGRAM, traceparent=TRACE[:-2] + "00")
    child = ProcessRecord(2, 13, "program", "draft", "ann", 12, 1050)

    assert run(named, child, CALL, replace(CALL, pid=13), ended(child), ended(named)) == {}


def test_a_child_belongs_to_its_parents_trace_and_a_detached_one_is_linked_to_it():
    child = ProcessRecord(2, 13, "program", "draft", "ann", 12, 1050)
    watcher = ProcessRecord(3, 14, "program", "watcher", "ann", 12, 1060, detached=True)
    found = run(PROGRAM, child, watcher, ended(child), ended(PROGRAM), ended(watcher))
    parent, draft, loose = (found[f"program {name}"] for name in ("best_of_n", "draft", "watcher"))

    assert draft.parent.span_id == parent.context.span_id and draft.context.trace_id == parent.context.trace_id
    assert loose.parent is None and loose.context.trace_id != parent.context.trace_id
    assert [link.context.span_id for link in loose.links] == [parent.context.span_id]


def test_what_failed_says_so():
    found = run(PROGRAM, replace(CALL, result="ENOSPC"), ended(PROGRAM, 1, "exception"))

    assert found["forward"].status.status_code is StatusCode.ERROR and found["forward"].status.description == "ENOSPC"
    assert found["program best_of_n"].status.description == "exception"


def test_a_call_that_is_none_of_ours_names_no_span():
    assert set(run(PROGRAM, replace(CALL, op="drop table"))) == {"unknown call"}


def test_calls_of_whom_nobody_told_make_no_span():
    assert run(replace(CALL, pid=1)) == {}


def test_a_process_has_so_many_spans_of_calls_and_says_how_many_more_there_were(monkeypatch):
    monkeypatch.setattr(otel, "MAX_CALLS", 3)
    spans = Spans("1.0")
    spans.began(PROGRAM)
    made = [spans.call(replace(CALL, seq=seq)) for seq in range(5)]
    process = spans.ended(ended(PROGRAM))

    assert [span is not None for span in made] == [True, True, True, False, False]
    assert (process.attributes["symphony.calls"], process.attributes["symphony.calls.left_out"]) == (5, 2)


def test_a_late_call_of_a_process_that_has_ended_still_finds_its_trace():
    spans = Spans("1.0")
    process = run(PROGRAM, ended(PROGRAM), spans=spans)["program best_of_n"]

    assert spans.call(CALL).context.trace_id == process.context.trace_id


def test_what_has_ended_is_forgotten_in_the_end(monkeypatch):
    monkeypatch.setattr(otel, "KEPT", 2)
    spans = Spans("1.0")
    for pid in (12, 13, 14):
        run(replace(PROGRAM, pid=pid), ended(replace(PROGRAM, pid=pid)), spans=spans)

    assert spans.call(CALL) is None and spans.call(replace(CALL, pid=14)) is not None
    assert spans.running() == set()


def test_the_environments_sampler_and_resource_count(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=lab")

    assert run(PROGRAM, CALL, ended(PROGRAM)) == {}
    assert Spans("1.0").resource.attributes["deployment.environment"] == "lab"
