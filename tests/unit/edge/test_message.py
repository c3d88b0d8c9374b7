"""Dataclasses of the abi and messages of symphony.v1: the same fields, and no loss between them."""

from dataclasses import MISSING, fields, is_dataclass, replace

import pytest

from tests.unit.abi.test_codec import example
from vllm_symphony import errors
from vllm_symphony.abi import calls, types
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import (
    CallRecord,
    ChannelStat,
    ExitStatus,
    FileStat,
    Message,
    ModelInfo,
    ProcessEvent,
    ProcessStat,
    ProgramInfo,
    ResourceLimits,
    ThreadUsage,
    ToolInfo,
    Usage,
)  # fmt: skip
from vllm_symphony.proto.message import (
    call_message,
    call_of,
    from_message,
    is_part,
    number_of,
    outcome_message,
    outcome_of,
    to_message,
    word_of,
)  # fmt: skip
from vllm_symphony.proto.status import TRAILER, from_trailer, to_status
from vllm_symphony.proto.v1 import call_pb2, channel_pb2, file_pb2, model_pb2, process_pb2, registry_pb2, tool_pb2

MODULES = (file_pb2, model_pb2, process_pb2, channel_pb2, tool_pb2, registry_pb2)
SHARED = {
    name: getattr(module, name)
    for module in MODULES
    for name in module.DESCRIPTOR.message_types_by_name
    if is_dataclass(getattr(types, name, None))
}
VALUES = [
    ProcessEvent(3, 1_700_000_000_000_000_001, "stdout", "hé\n", 2**53 - 1),
    Usage(1, 2, 3, 4, 5, 0.25, 0.5),
    ExitStatus(0, "exit", "null"),
    ExitStatus(1, "exception", None, "ValueError: x"),
    ProcessStat(7, None, "a", "me", "starting", 1, None, 1, 0, 0, (), Usage()),
    ProcessStat(7, 0, "", "me", "zombie", 1, 2, 0, 3, 4, ("wait", "forward"), Usage(9), ExitStatus(130, "cancelled")),
    FileStat(5, None, 0, "me", 0o600, 10, 8, 1, "exact", 1, True, 1, 2),
    FileStat(5, "", 0, "me", 0o600, 10, 8, 1, "exact", 1, True, 1, 2),
    CallRecord(1, 2, 0, "open", "path=/a", "ok", 1, 2),
    CallRecord(1, 2, 0, "forward", "fd=3", "ok", 1, 2, 0, 5),
    ModelInfo("m", 10, 20, 16, 30, 5, (0, 1), "float32", ("a",), {"swa": "why"}),
    ResourceLimits(),
    ResourceLimits(tokens=0, wall_s=1.5, depth=0, calls_per_s=500.0),
    ThreadUsage(3, "draft", Usage(tool_s=0.5, num_tools=2, num_messages=1)),
    ChannelStat("ops/chat", "ops", "", 0o600, "topic", "drop_new", 64, 3, 1, 0),
    Message(7, b"\xff\x00", 12, "ops", (3, 4), 9, 1),
    ToolInfo("web.get", "fetch", "{}", True, "http"),
    ProgramInfo("ops/a", "1.2", "ops", "ab", 9, "wasm", "main", "", "{}", 1, limits=ResourceLimits(tokens=9)),
    ProgramInfo("ops/a", "1.2", "ops", "ab", 9, "wasm", "main", "", "{}", 1, tools=(), paths=()),
    ProgramInfo("ops/a", "1.2", "ops", "ab", 9, "wasm", "main", "", "{}", 1, tools=("web.*",), paths=("/kb", "/tmp")),
]


def test_messages_have_the_fields_of_their_dataclasses():
    assert len(SHARED) >= 7
    for name, message in SHARED.items():
        ours, theirs = [f.name for f in fields(getattr(types, name))], [f.name for f in message.DESCRIPTOR.fields]
        assert theirs == ours, name


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_nothing_is_lost_on_the_wire(value):
    message = SHARED[type(value).__name__]

    sent = to_message(value, message()).SerializeToString()

    assert from_message(message.FromString(sent)) == value


@pytest.mark.parametrize("tools", [None, (), ("web.*", "calc")])
def test_no_tools_and_nothing_said_of_tools_are_two_things(tools):
    message = call_pb2.Call()

    call_message("spawn", calls.Spawn("x", tools=tools), message)

    assert call_of(call_pb2.Call.FromString(message.SerializeToString()))[1].tools == tools


REMOTE = [op for op in CALLS if op in call_pb2.Call.DESCRIPTOR.fields_by_name]


def test_all_calls_but_those_of_the_edge_have_a_message():
    assert CALLS.keys() - set(REMOTE) == {"hello", *(op for op, spec in CALLS.items() if spec.kind == "edge")}


@pytest.mark.parametrize("op", REMOTE)
def test_every_call_and_outcome_crosses_the_wire(op):
    spec = CALLS[op]
    call = call_pb2.Call()
    call_message(op, example(spec.args), call)
    assert call_of(call_pb2.Call.FromString(call.SerializeToString())) == (op, example(spec.args))

    for cls in (spec.result, spec.part):
        if cls is not None:
            sent, answer = with_known_words(example(cls)), call_pb2.Answer()
            outcome_message(sent, answer)
            assert outcome_of(call_pb2.Answer.FromString(answer.SerializeToString())) == sent
            assert is_part(sent) == (cls is spec.part)


@pytest.mark.parametrize("op", REMOTE)
def test_what_is_left_out_takes_the_defaults_of_the_table(op):
    call = call_pb2.Call()
    getattr(call, op).SetInParent()

    _, args = call_of(call)

    for f in fields(args):
        if f.default is not MISSING:
            assert getattr(args, f.name) == f.default, f.name


def test_forwards_that_failed_keep_their_places():
    one = calls.ForwardResult(3, ())
    error = calls.CallError("EBUSY", "busy", {"ino": 7, "path": "/a", "ok": True, "share": 0.5}, 1.5)
    sent, answer = calls.ForwardManyResult((one, None), (None, error)), call_pb2.Answer()
    outcome_message(sent, answer)
    assert outcome_of(answer) == sent


def test_a_call_of_the_future_and_a_number_out_of_range_are_refused():
    with pytest.raises(errors.InvalidArgument, match="does not know"):
        call_of(call_pb2.Call(id=1))
    with pytest.raises(errors.InvalidArgument, match=r"Sleep\.seconds"):
        call_message("sleep", calls.Sleep("long"), call_pb2.Call())  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument, match=r"FdArgs\.fd"):
        call_message("close", calls.FdArgs(1 << 70), call_pb2.Call())


def with_known_words(value):
    """Where a word must be one of an enum."""
    if isinstance(value, calls.PsResult):
        return calls.PsResult(tuple(replace(p, state="running") for p in value.processes))
    return replace(value, usage=replace(value.usage, state="zombie")) if isinstance(value, calls.WaitResult) else value


def test_words_are_enum_values():
    kinds = process_pb2.EventKind.DESCRIPTOR

    assert number_of(kinds, "stdout") == process_pb2.EVENT_KIND_STDOUT
    assert word_of(kinds, process_pb2.EVENT_KIND_GAP) == "gap"
    assert number_of(kinds, "of the future") == 0
    assert word_of(kinds, 999) == "unspecified"


@pytest.mark.parametrize("cls", errors.ALL, ids=lambda c: c.__name__)
def test_every_error_comes_back_as_its_class(cls):
    error = cls("what: why", retry_after_s=1.5, path="/a", num=3, ratio=0.5, yes=True)

    again = from_trailer([("x", "y"), (TRAILER, to_status(error).SerializeToString())])

    assert type(again) is type(errors.BY_REASON[cls.reason]("x"))
    assert str(again) == str(error)
    assert again.values == error.values
    assert again.retry_after_s == 1.5


def test_a_status_that_is_not_ours_is_none():
    assert from_trailer(None) is None
    assert from_trailer([("content-type", "grpc")]) is None
