"""The codec of the ABI: bodies of frames <-> the dataclasses of abi/calls.py (abi/codec.py).

    body --read_call--> Call(id, op, tid, a: raw) --read_args--> Forward(fd=3, tokens=...)
    body --read_answer--> Answer(id, ok | err | part | signal) --read_result--> ForwardResult(...)

A call is decoded in two steps, so that a frame whose arguments are wrong still has an id to answer. Each step is one pass in C.
The arguments are read twice: once for their *shape* (unknown names, at any depth, and arrays longer than `MAX_ITEMS` are refused
without building anything) and once typed. Nesting is bounded by msgspec's own recursion guard.
The only module of the package that imports msgspec; never pickle. The format is described at the top of abi/calls.py.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Raw

from vllm_symphony.abi.calls import MAX_REQUEST_ID, CallError
from vllm_symphony.abi.frame import frame
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials
from vllm_symphony.errors import DataCorrupt, InvalidArgument, NoSuchCall, SymphonyError, from_reason

MAX_ITEMS = 1 << 16  # of one array or map inside a call; bulk is packed bytes and does not count
MAX_ERROR_CHARS = 4096
MAX_ID = 2**53 - 1  # what every language's integers hold
MAX_RESUME = 128  # characters
_EMPTY_MAP = Raw(b"\x80")
_NOTHING = Raw()  # false, as a field that was not sent
_SHAPE_DEPTH = 6  # how deep unknown names are looked for in recursive types (Predicate)
_MALFORMED = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)

Id = Annotated[int, Meta(ge=0, le=MAX_ID)]


class Call(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A call with its arguments still raw. `read_args` types them.

    request_id   a retry of a mutating call with the same one happens once
    ack          of a session: the number of the last answer that it has, all before it too
    cred         from an edge: whom it acts for
    session      from an edge: the session whose call this is, with the `resume` token that proves it; the answer goes to the edge
    """

    id: Id
    op: Annotated[str, Meta(max_length=64)]
    tid: Id = 0
    a: Raw = _EMPTY_MAP
    request_id: Annotated[str, Meta(max_length=MAX_REQUEST_ID)] = ""
    ack: Id = 0
    cred: Credentials | None = None
    session: Id = 0
    resume: Annotated[str, Meta(max_length=MAX_RESUME)] = ""


@dataclass(frozen=True, slots=True)
class Program:
    """The first frame that a program's process receives: what to run, and its own random seed. `args` is JSON text. `code`: a
    WebAssembly module, then `source` is empty. `memory_bytes`: what its process may have; 0 when nobody said."""

    source: str
    entry: str
    args: str
    name: str
    seed: int
    code: bytes = b""
    memory_bytes: int = 0


class Answer(msgspec.Struct, gc=False):
    """What the kernel sends: exactly one of the fields after `of` is set (true). Of a session `seq` is the answer's number, from 1,
    and `of` the name of the result's or part's dataclass: who carries on with a session does not know what was called before.
    Unknown fields are ignored: a newer server may add some."""

    id: Id = 0
    seq: Id = 0
    of: str = ""
    ok: Raw = _NOTHING
    err: CallError | None = None
    part: Raw = _NOTHING
    signal: str | None = None
    program: Program | None = None


_TEXT_LIMITS = {"request_id": MAX_REQUEST_ID, "resume": MAX_RESUME}
_OUTCOMES = {cls.__name__: cls for spec in CALLS.values() for cls in (spec.result, spec.part) if cls is not None}
_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode

# ---- the kernel's side


def read_call(body: bytes) -> Call:
    """The envelope of a call. Raises InvalidArgument: it has no id that could be answered, so the connection should end."""
    try:
        return _decode_call(body)
    except _MALFORMED as e:
        raise InvalidArgument(f"malformed frame of {len(body)} bytes: {_reason(e)}") from None


def read_args(call: Call) -> Any:
    """The call's arguments, as the dataclass that `CALLS` names.

    Raises:
        NoSuchCall: the op is not in the table.
        InvalidArgument: a field is missing, unknown, of a wrong type, or an array is longer than `MAX_ITEMS`.
    """
    op = call.op
    if op not in CALLS:
        raise NoSuchCall(f"no such call: {op}", op=op)
    check_shape, decode = _args_decoders(op)
    try:
        check_shape(call.a)
        return decode(call.a)
    except _MALFORMED as e:
        raise InvalidArgument(f"{op}: {_reason(e)}") from None


def reply_frame(call_id: int, result: object, seq: int = 0) -> bytes:
    """Raises InvalidArgument when the result does not fit into one frame, DataCorrupt when it cannot be written at all."""
    return _written({**_numbered(call_id, seq, result), "ok": result} if seq else {"id": call_id, "ok": result})


def part_frame(call_id: int, part: object, seq: int = 0) -> bytes:
    """Raises as `reply_frame`."""
    return _written({**_numbered(call_id, seq, part), "part": part} if seq else {"id": call_id, "part": part})


def error_frame(call_id: int, error: SymphonyError, seq: int = 0) -> bytes:
    """Never raises: an error must reach its caller, so long or odd text in it is cut and escaped."""
    message = {"id": call_id, "err": call_error(error)}
    return frame(_encode({**message, "seq": seq} if seq else message))


def signal_frame(signal: str, seq: int = 0) -> bytes:
    return frame(_encode({"seq": seq, "signal": signal} if seq else {"signal": signal}))


def program_frame(program: Program) -> bytes:
    """Raises as `reply_frame`."""
    return _written({"program": program})


def _numbered(call_id: int, seq: int, result: object) -> dict[str, object]:
    return {"id": call_id, "seq": seq, "of": type(result).__name__}


def call_error(error: SymphonyError) -> CallError:
    """An error as it travels."""
    values = {k: _short(v) if isinstance(v, str) else v for k, v in error.values.items()}
    return CallError(error.reason, _short(error.message), values, error.retry_after_s)


def _written(message: dict[str, object]) -> bytes:
    try:
        return frame(_encode(message))
    except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeError) as e:
        raise DataCorrupt(f"the answer cannot be written: {_reason(e)}") from None


def _short(text: str) -> str:
    """Text of an error: it may quote what a caller sent, which may be megabytes or no Unicode."""
    return text[:MAX_ERROR_CHARS].encode("utf-8", "backslashreplace").decode()


# ---- the caller's side


def call_frame(call_id: int, op: str, args: object, tid: int = 0, cred: Credentials | None = None, **beside: object) -> bytes:
    """A call, ready to send; `beside`: further fields of `Call`, left out where they are empty.

    Raises InvalidArgument when it is too large, holds what msgpack cannot carry, or what `read_call` would refuse: callers of an
    edge share one connection, which must not end for what one of them asked.
    """
    message: dict[str, object] = {"id": call_id, "op": op, "tid": tid, "a": args}
    if cred is not None:
        message["cred"] = cred
    for name, value in beside.items():
        if value:
            message[name] = value
            if len(value) > _TEXT_LIMITS[name] if isinstance(value, str) else not 0 <= value <= MAX_ID:  # type: ignore[operator]
                raise InvalidArgument(f"{op}: {name} is out of its range: {_limit_of(name)}")
    if not (0 <= call_id <= MAX_ID and 0 <= tid <= MAX_ID):
        raise InvalidArgument(f"{op}: id and tid must be in 0..{MAX_ID}, not {call_id} and {tid}")
    try:
        return frame(_encode(message))
    except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeError) as e:
        raise InvalidArgument(f"{op}: {_reason(e)}") from None


def _limit_of(name: str) -> str:
    return f"at most {_TEXT_LIMITS[name]} characters" if name in _TEXT_LIMITS else f"0..{MAX_ID}"


def read_answer(body: bytes) -> Answer:
    """What came from the kernel. Raises InvalidArgument when it is no answer at all."""
    try:
        return _decode_answer(body)
    except _MALFORMED as e:
        raise InvalidArgument(f"malformed answer of {len(body)} bytes: {_reason(e)}") from None


def read_result(op: str, raw: Raw) -> Any:
    """The result of `op`, as the dataclass that `CALLS` names."""
    return _typed(op, raw, CALLS[op].result)


def read_part(op: str, raw: Raw) -> Any:
    """One part of a stream of `op`."""
    part = CALLS[op].part
    assert part is not None, f"{op} has no parts"
    return _typed(op, raw, part)


def read_outcome(answer: Answer) -> Any:
    """The result, part or CallError of a session's answer."""
    if answer.err is not None:
        return answer.err
    cls = _OUTCOMES.get(answer.of)
    if cls is None:
        raise InvalidArgument(f"an answer of an unknown kind: {answer.of[:64]!r}")
    return _typed(answer.of, answer.part or answer.ok, cls)


def error_of(err: CallError) -> SymphonyError:
    """The typed error that travelled as `err`."""
    return from_reason(err.reason, err.message, err.values, err.retry_after_s)


def _typed(op: str, raw: Raw, cls: type) -> Any:
    try:
        return _decoder(cls)(raw)
    except _MALFORMED as e:
        raise InvalidArgument(f"{op}: {_reason(e)}") from None


# ---- decoders, made once


@cache
def _args_decoders(op: str) -> tuple[Any, Any]:
    args = CALLS[op].args
    return _decoder(_shape(args, _SHAPE_DEPTH)), _decoder(args)


@cache
def _decoder(cls: Any) -> Any:
    return msgspec.msgpack.Decoder(cls).decode


@cache
def _shape(cls: type, depth: int) -> type:
    """A struct with the field names of dataclass `cls` and nothing but raw values: it refuses unknown names and long arrays."""
    fields = [(name, _shape_of(hint, depth - 1), _NOTHING) for name, hint in get_type_hints(cls).items()]
    return msgspec.defstruct(cls.__name__, fields, forbid_unknown_fields=True, gc=False)


def _shape_of(hint: Any, depth: int) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        shape = _shape_of(args[0], depth) if len(args) == 2 and args[1] is type(None) else Raw
        return shape if shape is Raw else shape | None
    if origin is tuple:
        return Annotated[types.GenericAlias(list, (_shape_of(args[0], depth),)), Meta(max_length=MAX_ITEMS)]
    if origin is dict:
        return Annotated[dict[args[0], Raw], Meta(max_length=MAX_ITEMS)]  # type: ignore[valid-type]
    if is_dataclass(hint) and depth > 0:
        return _shape(hint, depth)  # type: ignore[arg-type]
    return Raw


def _reason(error: BaseException) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
