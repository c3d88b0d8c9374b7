"""Between the abi's dataclasses and the messages of symphony.v1 (proto/message.py).

    ProcessStat(state="running", parent=None, ...)  <->  ProcessStat { state: PROCESS_STATE_RUNNING ... }

A dataclass and its message have the same name and the same fields (a test compares them), so two functions serve all: None is an
unset field, a word is a value of the enum, nested dataclasses are nested messages. Shared by the edge and the client.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from vllm_symphony.abi import types

M = TypeVar("M", bound=Message)


def to_message(value: Any, into: M) -> M:
    """Fill the message `into` from the dataclass `value`, and give it back."""
    for field in _fields(into.DESCRIPTOR):
        name, content = field.name, getattr(value, field.name)
        if content is None:
            continue
        if _is_map(field):
            getattr(into, name).update(content)
        elif field.is_repeated:
            if field.message_type:
                for item in content:
                    to_message(item, getattr(into, name).add())
            else:
                getattr(into, name).extend(content)
        elif field.message_type:
            nested = getattr(into, name)
            nested.SetInParent()
            to_message(content, nested)
        else:
            setattr(into, name, number_of(field.enum_type, content) if field.enum_type else content)
    return into


def from_message(message: Message) -> Any:
    """The dataclass of abi/types.py that the message stands for."""
    values: dict[str, Any] = {}
    for field in _fields(message.DESCRIPTOR):
        content = getattr(message, field.name)
        if _is_map(field):
            content = dict(content)
        elif field.is_repeated:
            content = tuple(from_message(item) if field.message_type else item for item in content)
        elif field.has_presence and field.name in _OPTIONAL[message.DESCRIPTOR.name] and not message.HasField(field.name):
            content = None
        elif field.message_type:
            content = from_message(content)
        elif field.enum_type:
            content = word_of(field.enum_type, content)
        values[field.name] = content
    return getattr(types, message.DESCRIPTOR.name)(**values)


def number_of(enum: EnumDescriptor, word: str) -> int:
    """`stdout` -> EVENT_KIND_STDOUT; 0 for a word that this version does not know."""
    value = enum.values_by_name.get(_prefix(enum.name) + word.upper())
    return int(value.number) if value else 0


def word_of(enum: EnumDescriptor, number: int) -> str:
    """EVENT_KIND_STDOUT -> `stdout`; `unspecified` for a number that this version does not know."""
    value = enum.values_by_number.get(number)
    return str(value.name).removeprefix(_prefix(enum.name)).lower() if value else "unspecified"


_OPTIONAL = {"ProcessStat": {"parent", "ended_ns", "exit"}, "ExitStatus": {"value", "error"}, "FileStat": {"path"}}
_OPTIONAL |= {"CallRecord": {"step_first", "step_last"}}
_OPTIONAL |= {name: set() for name in ("ProcessEvent", "Usage", "ModelInfo")}


@cache
def _fields(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    return tuple(descriptor.fields)


@cache
def _prefix(enum_name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum_name).upper() + "_"


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)
