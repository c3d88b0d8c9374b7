"""Dataclasses of the abi and messages of symphony.v1: the same fields, and no loss between them."""

from dataclasses import fields, is_dataclass

import pytest

from vllm_symphony import errors
from vllm_symphony.abi import types
from vllm_symphony.abi.types import CallRecord, ExitStatus, FileStat, ModelInfo, ProcessEvent, ProcessStat, Usage
from vllm_symphony.proto.message import from_message, number_of, to_message, word_of
from vllm_symphony.proto.status import TRAILER, from_trailer, to_status
from vllm_symphony.proto.v1 import file_pb2, model_pb2, process_pb2

MODULES = (file_pb2, model_pb2, process_pb2)
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
