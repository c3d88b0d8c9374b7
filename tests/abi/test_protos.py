"""The messages of the system calls are the dataclasses of the ABI: names, types, presence; the words of Call and Answer too."""

import re
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from vllm_symphony.abi import calls, types
from vllm_symphony.abi.table import CALLS
from vllm_symphony.proto.v1 import call_pb2, channel_pb2, file_pb2, process_pb2, registry_pb2, session_pb2, system_pb2, tool_pb2

SCALARS = {int: {"int32", "int64", "uint32", "uint64"}, float: {"double"}, str: {"string"}, bool: {"bool"}, bytes: {"bytes"}}
NAMES = {getattr(FieldDescriptor, name): name[5:].lower() for name in dir(FieldDescriptor) if name.startswith("TYPE_")}
ENVELOPES = {"Call", "Answer"}
MESSAGES: dict[str, Descriptor] = {
    **call_pb2.DESCRIPTOR.message_types_by_name,
    **{name: session_pb2.DESCRIPTOR.message_types_by_name[name] for name in ("Hello", "HelloResult")},
}
RECORDS: dict[str, Descriptor] = {  # what calls and RPCs tell of
    name: message
    for file in (process_pb2, channel_pb2, tool_pb2, registry_pb2)
    for name, message in file.DESCRIPTOR.message_types_by_name.items()
    if hasattr(types, name)
}
VALUES = sorted(set(MESSAGES) - ENVELOPES)
NO_SESSION = {"hello"} | {op for op, spec in CALLS.items() if spec.kind == "edge"}  # what a session cannot call


def dataclass_of(name: str) -> type:
    found = getattr(calls, name, None) or getattr(types, name)
    assert is_dataclass(found) and isinstance(found, type)
    return found


def shape_of(hint: Any) -> tuple[str, Any]:
    """What a hint is on the wire: (`one` | `many` | `map`, its type)."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return "many", shape_of(get_args(hint)[0])[1]
    if get_origin(hint) is dict:
        return "map", get_args(hint)
    return "one", hint


def shape_in(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "map"
    return "many" if field.is_repeated else "one"


def fits(field: FieldDescriptor, wanted: Any) -> bool:
    """The field holds one `wanted`."""
    if is_dataclass(wanted):
        return field.message_type is not None and field.message_type.name == wanted.__name__  # type: ignore[union-attr]
    return NAMES[field.type] in SCALARS[wanted]


def is_optional(field: Field[Any], wanted: Any) -> bool:
    """Leaving it out means something else than the zero of its type."""
    if field.default is MISSING:
        return False
    return field.default is None or field.default != wanted()


@pytest.mark.parametrize("name", VALUES)
def test_a_message_has_the_fields_of_its_dataclass(name):
    ours = [f.name for f in fields(dataclass_of(name))]
    if name == "Hello":
        ours.remove("role")  # over gRPC everybody is a session

    assert [f.name for f in MESSAGES[name].fields] == ours


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_has_the_fields_of_its_dataclass_with_their_types(name):
    hints = get_type_hints(dataclass_of(name))

    assert {f.name for f in RECORDS[name].fields} == set(hints)
    for field in RECORDS[name].fields:
        shape, wanted = shape_of(hints[field.name])
        assert shape_in(field) == shape, field.name
        assert (field.enum_type and wanted is str) or fits(field, wanted), field.name


@pytest.mark.parametrize("name", VALUES)
def test_a_field_has_the_type_of_the_dataclasss_and_says_when_leaving_it_out_is_not_its_zero(name):
    hints = get_type_hints(dataclass_of(name))
    ours = {f.name: f for f in fields(dataclass_of(name))}

    for field in MESSAGES[name].fields:
        shape, wanted = shape_of(hints[field.name])
        where = f"{name}.{field.name}"
        assert shape_in(field) == shape, where
        if (name, field.name) == ("CallError", "values"):
            assert [NAMES[f.type] for f in field.message_type.fields] == ["string", "string"]  # the values are JSON text
        elif shape == "map":
            assert all(fits(part, kind) for part, kind in zip(field.message_type.fields, wanted, strict=True)), where
        else:
            assert fits(field, wanted), where
            is_scalar = shape == "one" and not is_dataclass(wanted)
            assert (field.has_presence and is_scalar) is (is_scalar and is_optional(ours[field.name], wanted)), where


def test_a_call_has_one_word_for_each_system_call_that_a_session_can_make():
    words = {f.name: f.message_type.name for f in MESSAGES["Call"].oneofs_by_name["args"].fields}

    assert words == {op: spec.args.__name__ for op, spec in CALLS.items() if op not in NO_SESSION}


def test_an_answer_has_one_word_for_each_result_and_part():
    words = {f.message_type.name: f.name for f in MESSAGES["Answer"].oneofs_by_name["outcome"].fields}
    results = {cls.__name__ for op, spec in CALLS.items() if op not in NO_SESSION for cls in (spec.result, spec.part) if cls}

    assert words == {"CallError": "error"} | {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in results}


def test_every_message_of_the_calls_is_one_of_a_call():
    wanted = {
        cls.__name__ for op, spec in CALLS.items() if op not in NO_SESSION for cls in (spec.args, spec.result, spec.part) if cls
    }
    parts = {"Distribution", "CallError", "Sampler", "Grammar", "Predicate", "Span", "SendFd", "Hello", "HelloResult"}

    assert set(VALUES) == wanted | parts


RPCS = {method.name: method for method in file_pb2.DESCRIPTOR.services_by_name["FileService"].methods}
CALL_OF = {"ListFiles": "list"} | {name: name.lower() for name in RPCS if name.lower() in CALLS}
OTHERWISE = {"Link", "Copy", "ListFiles", "Rename", "Read"}  # two names; older than this rule
LATER = {  # RPCs of other services, by the same rule
    (process_pb2, "ProcessService"): {"Feed": "feed", "GetLimits": "getrlimit", "SetLimits": "setrlimit"},
    (registry_pb2, "RegistryService"): {
        "Install": "install", "Uninstall": "uninstall", "ListPrograms": "programs", "GetProgram": "program"
    },
    (tool_pb2, "ToolService"): {"ListTools": "tools"},
    (channel_pb2, "ChannelService"): {"ListChannels": "channels", "UnlinkChannel": "channel_unlink"},
    (system_pb2, "SystemService"): {"GetSched": "getsched", "SetSched": "setsched", "SetWeight": "setweight"},
}  # fmt: skip
for (file, service), names in LATER.items():
    RPCS |= {name: file.DESCRIPTOR.services_by_name[service].methods_by_name[name] for name in names}
    CALL_OF |= names
ONLY_IN_REQUESTS = {"request_id", "data", "spool"}


@pytest.mark.parametrize("name", sorted(set(CALL_OF) - OTHERWISE))
def test_a_request_has_the_fields_of_its_call(name):
    ours = {f.name: f for f in fields(CALLS[CALL_OF[name]].args)}
    hints = get_type_hints(CALLS[CALL_OF[name]].args)
    theirs = {f.name: f for f in RPCS[name].input_type.fields if f.name not in ONLY_IN_REQUESTS}

    assert set(theirs) == set(ours) - {"fd"} - ONLY_IN_REQUESTS
    for field in theirs.values():
        shape, wanted = shape_of(hints[field.name])
        assert shape_in(field) == shape
        is_path = field.name == "path" and not field.has_presence  # always given: there is no fd here
        if shape == "one" and not is_path:
            assert fits(field, wanted)
            if not is_dataclass(wanted):
                assert field.has_presence is is_optional(ours[field.name], wanted), field.name


@pytest.mark.parametrize("name", sorted(set(CALL_OF) - OTHERWISE))
def test_a_response_has_the_fields_of_its_calls_result(name):
    spec = CALLS[CALL_OF[name]]
    theirs = {f.name for f in RPCS[name].output_type.fields}

    assert theirs == ({"num_bytes", "data"} if name == "Export" else {f.name for f in fields(spec.part or spec.result)})


@pytest.mark.parametrize("name", sorted(CALL_OF))
def test_an_rpc_that_changes_something_takes_a_request_id(name):
    assert ("request_id" in RPCS[name].input_type.fields_by_name) is CALLS[CALL_OF[name]].mutates
