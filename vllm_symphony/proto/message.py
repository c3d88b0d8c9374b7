"""Between the abi's dataclasses and the messages of symphony.v1 (proto/message.py).

    ProcessStat(state="running", parent=None, ...)  <->  ProcessStat { state: PROCESS_STATE_RUNNING ... }
    Forward(fd=3, tokens=b"...")  <->  Call { forward: Forward { fd: 3 tokens: "..." } }

A dataclass and its message have the same name and the same fields (a test compares them), so two functions serve all: None is an
unset field, an unset field takes the dataclass's default, a word is a value of the enum, nested dataclasses are nested messages. A
list that may be None is None when it is empty; a list of one empty string is one that holds nothing.
Which oneof field carries a call or a result is told by name. Shared by the edge and the client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from vllm_symphony.abi import calls, types
from vllm_symphony.abi.table import CALLS
from vllm_symphony.errors import InvalidArgument

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Read = Callable[[Any], Any]


def to_message(value: Any, into: M) -> M:
    """Fill the message `into` from the dataclass `value`, and give it back. Raises InvalidArgument for what a field cannot hold."""
    for field in _fields(into.DESCRIPTOR):
        name, content = field.name, getattr(value, field.name)
        if content is None:
            continue
        if content == () and name in _none_lists(type(value)):
            content = ("",)
        try:
            _write(field, content, into)
        except (TypeError, ValueError) as e:  # a number out of range, text that is no Unicode, a wrong type
            raise InvalidArgument(f"{into.DESCRIPTOR.name}.{name}: {e}") from None
    return into


def from_message(message: Message) -> Any:
    """The dataclass of the abi that the message stands for."""
    name = message.DESCRIPTOR.name
    return read_as(getattr(calls, name, None) or getattr(types, name), message)


def read_as(cls: type[T], message: Message, **beside: Any) -> T:
    """The dataclass `cls` out of a message of another name, as a request, and what is given beside; what only the message has is
    passed over."""
    values = beside
    for name, read, unset in _plan(message.DESCRIPTOR, cls):
        if unset is _ALWAYS or message.HasField(name):
            values[name] = read(getattr(message, name))
        elif unset is None:
            values[name] = None
    return cls(**values)


def call_message(op: str, args: Any, into: Message) -> None:
    """Put a call's arguments into a `Call`. Raises InvalidArgument as `to_message`."""
    to_message(args, _chosen(into, op))


def call_of(message: Message) -> tuple[str, Any]:
    """The name and the arguments of a `Call`. Raises InvalidArgument when it has none that we know."""
    op = message.WhichOneof("args")
    if op is None:
        raise InvalidArgument("the call has no arguments, or is one that this server does not know")
    return op, from_message(getattr(message, op))


def outcome_message(result: Any, into: Message) -> None:
    """Put a result, a part or an error into an `Answer`."""
    to_message(result, _chosen(into, _outcome_field(type(result))))


def outcome_of(message: Message) -> Any:
    """The result, part or CallError of an `Answer`; None for one that this version does not know."""
    name = message.WhichOneof("outcome")
    return None if name is None else from_message(getattr(message, name))


def number_of(enum: EnumDescriptor, word: str) -> int:
    """`stdout` -> EVENT_KIND_STDOUT; 0 for a word that this version does not know."""
    value = enum.values_by_name.get(_prefix(enum.name) + word.upper())
    return int(value.number) if value else 0


def word_of(enum: EnumDescriptor, number: int) -> str:
    """EVENT_KIND_STDOUT -> `stdout`; `unspecified` for a number that this version does not know."""
    value = enum.values_by_number.get(number)
    return str(value.name).removeprefix(_prefix(enum.name)).lower() if value else "unspecified"


def is_part(result: Any) -> bool:
    """More answers of the same call will come."""
    return type(result) in _PARTS


_ALWAYS, _DEFAULT = object(), object()
_PARTS = frozenset(spec.part for spec in CALLS.values() if spec.part is not None)


def _chosen(message: Message, name: str) -> Any:
    """The field of a oneof, chosen though it may stay empty."""
    nested = getattr(message, name)
    nested.SetInParent()
    return nested


@cache
def _outcome_field(cls: type) -> str:
    return "error" if cls is calls.CallError else _snake(cls.__name__)


def _write(field: FieldDescriptor, content: Any, into: Message) -> None:
    name = field.name
    if _is_map(field):
        is_json = (
            field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING and into.DESCRIPTOR.name == "CallError"
        )
        getattr(into, name).update({k: json.dumps(v) for k, v in content.items()} if is_json else content)
    elif field.is_repeated:
        if field.message_type:
            for item in content:
                nested = getattr(into, name).add()
                if item is not None:
                    to_message(item, nested)
        else:
            getattr(into, name).extend(content)
    elif field.message_type:
        to_message(content, _chosen(into, name))
    else:
        setattr(into, name, number_of(field.enum_type, content) if field.enum_type else content)


@cache
def _plan(descriptor: Descriptor, cls: type) -> tuple[tuple[str, Read, object], ...]:
    """How to read a message as the dataclass `cls`: for each field its name, what makes a value of it, and what it is when it is
    unset: `_ALWAYS` set, None, or the dataclass's `_DEFAULT`."""
    hints, has_default = get_type_hints(cls), {f.name for f in fields(cls) if f.default is not MISSING}
    plan = []
    for field in _fields(descriptor):
        if field.name not in hints:
            continue
        unset: object = _ALWAYS
        if field.has_presence and field.name in has_default:
            unset = _DEFAULT
        elif field.has_presence and type(None) in get_args(hints[field.name]):
            unset = None
        read = _none_or_list if field.name in _none_lists(cls) else _reader(field, descriptor.name)
        plan.append((field.name, read, unset))
    return tuple(plan)


@cache
def _none_lists(cls: type) -> frozenset[str]:
    """The fields that hold a tuple of strings or None."""
    return frozenset(name for name, hint in get_type_hints(cls).items() if hint == tuple[str, ...] | None)


def _none_or_list(items: Any) -> tuple[str, ...] | None:
    return None if not items else tuple(item for item in items if item)


def _reader(field: FieldDescriptor, owner: str) -> Read:
    if _is_map(field):
        return _json_values if owner == "CallError" else dict
    if field.is_repeated:
        if not field.message_type:
            return tuple
        return _holey if owner == "ForwardManyResult" else lambda items: tuple(from_message(item) for item in items)
    if field.message_type:
        return from_message
    enum = field.enum_type
    return (lambda number: word_of(enum, number)) if enum else lambda content: content


def _holey(items: Any) -> tuple[Any, ...]:
    """Where an empty message stands for None."""
    return tuple(from_message(item) if item.ByteSize() else None for item in items)


def _json_values(values: Any) -> dict[str, Any]:
    return {k: json.loads(v) for k, v in values.items()}


@cache
def _fields(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    return tuple(descriptor.fields)


@cache
def _prefix(enum_name: str) -> str:
    return _snake(enum_name).upper() + "_"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)
