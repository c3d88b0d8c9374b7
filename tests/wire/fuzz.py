"""Draws of what nobody should send: arguments with values at the edges or of wrong types, forged envelopes, torn frames."""

from __future__ import annotations

import struct
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from vllm_symphony.abi.calls import CHUNK_BYTES, MAX_FRAME_BYTES
from vllm_symphony.abi.frame import CHUNK, LAST
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import pack_tokens

INTS = (
    -(2**63), -(2**53), -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 63, 64, 255, 256, 1024, 2**31, 2**32,
    2**53 - 1, 2**53, 2**63 - 1, 2**64 - 1,
)  # fmt: skip
FLOATS = (
    float("nan"), float("inf"), float("-inf"), -1.0, -0.0, 0.0, 5e-324, 1e-9, 0.5, 1.0, 2.0, 3600.0, 1e9, 1e18, 1e300, 1.7e308,
)  # fmt: skip
WORDS = (
    "", "/", "/a", "/b", "/a/../b", "//", "/" + "x" * 300, "\0", "é\U0001f600", "main", "{}", "[]", "{", "null", "1" * 5000, '"x"',
    "json", "regex", "TERM", "KILL", "HUP", "and", "or", "entropy", "after", "every", "top1_in", "mass", "exit", "last", "all",
    "none", "1.1", "9.9", "x.y", "[" * 2000, "/a/b", "/tmp", "/tmp/a", "/home", "/proc", "/proc/self/status", "/proc/1/fd/3",
    "keep", "compact", "recompute", "rotate", "shared", "exclusive", "unlock", "willneed", "dontneed", "host", "disk", "tokens",
    "pages", "pruned", "dir", "*", "[", '"fog" OR (', "NEAR(a, b)",
)  # fmt: skip
PACKED = (b"", b"\0", pack_tokens([0]), pack_tokens([1, 2, 3]), pack_tokens([2**32 - 1]), pack_tokens([5] * 200), bytes(4) * 5000)


def one_of(pool: Sequence[Any]) -> st.SearchStrategy[Any]:
    """As `sampled_from`, which would print the pool."""
    return st.integers(0, len(pool) - 1).map(lambda index: pool[index])


ints = one_of(INTS) | st.integers(0, 12)
floats = one_of(FLOATS)
texts = one_of(WORDS) | st.text(max_size=8)
packed = one_of(PACKED) | st.binary(max_size=12)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | one_of(INTS) | floats | texts | packed,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(0, 5), inner, max_size=3),
    max_leaves=6,
)


def args_of(op: str) -> st.SearchStrategy[Any]:
    """Arguments of a call that the codec lets pass, with values of any kind."""
    return _of(CALLS[op].args, 3)


@cache
def _of(hint: Any, depth: int) -> st.SearchStrategy[Any]:
    origin, inner = get_origin(hint), get_args(hint)
    simple = {int: ints, float: floats, str: texts, bytes: packed, bool: st.booleans(), type(None): st.none()}
    if hint in simple:
        return simple[hint]
    if origin in (Union, types.UnionType):
        return st.one_of([_of(one, depth) for one in inner])
    if origin is tuple:
        return st.lists(_of(inner[0], depth - 1), max_size=3).map(tuple) if depth > 0 else st.just(())
    if origin is dict:
        return st.dictionaries(_of(inner[0], depth), _of(inner[1], depth), max_size=3)
    assert is_dataclass(hint), hint
    hints = get_type_hints(hint)
    needed = {f.name: _of(hints[f.name], depth - 1) for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING}
    beside = {f.name: _of(hints[f.name], depth - 1) for f in fields(hint) if f.name not in needed}
    return st.fixed_dictionaries(needed, optional=beside).map(lambda values: hint(**values))


@st.composite
def envelopes(draw: Any, ops: tuple[str, ...]) -> bytes:
    """The body of a call: often one that the server must answer, with fields forged, missing, unknown or of wrong types."""
    op = draw(st.sampled_from(ops))
    call: dict[str, Any] = {"id": draw(st.integers(0, 20) | ints), "op": op, "a": draw(args_of(op) | anything)}
    forged = {
        "tid": ints, "request_id": texts, "ack": ints, "session": ints, "resume": texts, "cred": anything, "more": anything,
        "op": texts | anything, "id": anything,
    }  # fmt: skip
    for name in draw(st.lists(st.sampled_from(sorted(forged)), max_size=2)):
        call[name] = draw(forged[name])
    for name in draw(st.lists(st.sampled_from(["id", "op", "a"]), max_size=1)):
        call.pop(name, None)
    return _packed(call)


def _packed(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, TypeError, msgspec.MsgspecError, UnicodeError):
        return b"\x80"


BOMBS = (
    b"\xdf\xff\xff\xff\xff",  # a map of four billion that does not come
    b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
    b"\x91" * 100_000,  # arrays in arrays
    b"\x81\x80" * 5000,
    b"\x81\xa1a" * 50_000,
    b"\xc6\xff\xff\xff\xff",  # four gigabytes of bytes
    b"\xdb\xff\xff\xff\xff",
    b"\xc1", b"\xff", b"\x80", b"", b"\xc0",
    b"\x83\xa2id\x01\xa2op\xa4ping\xa1a" + b"\x81\xa1x" * 20_000 + b"\xc0",
    b"\x83\xa2id\x01\xa2op\xa4ping\xa1a\xdf\x00\x01\x00\x00" + b"\xa1x\x80" * 65_536,  # empty maps
    b"\x83\xa2id\x01\xa2op\xacforward_many\xa1a\x81\xa5items\xdd\x00\x01\x00\x01" + b"\x80" * 65_537,
)  # fmt: skip


@st.composite
def streams(draw: Any, bodies: st.SearchStrategy[bytes]) -> bytes:
    """Bytes on a connection: frames, chunks, frames torn, doubled and reordered, lengths that lie."""
    parts: list[bytes] = []
    for body in draw(st.lists(bodies | one_of(BOMBS) | st.binary(max_size=30), min_size=1, max_size=5)):
        parts += draw(st.sampled_from(_WAYS))(body)
    for way in draw(st.lists(st.sampled_from(["double", "reverse", "tear", "lie"]), max_size=2)):
        if way == "double":
            parts += parts[-1:]
        elif way == "reverse":
            parts.reverse()
        elif way == "tear":
            parts[-1] = parts[-1][: draw(st.integers(0, len(parts[-1])))]
        else:
            parts.append(
                struct.pack(
                    "<I", draw(st.sampled_from([0, 1, 7, MAX_FRAME_BYTES + 1, CHUNK, CHUNK | 7, CHUNK | 9, LAST | 1, 2**32 - 1]))
                )
            )
    return b"".join(parts)


def _whole(body: bytes) -> list[bytes]:
    return [struct.pack("<I", len(body)) + body]


def _in_chunks(body: bytes) -> list[bytes]:
    return [_chunk(5, body[start : start + 7], last=start + 7 >= len(body)) for start in range(0, max(1, min(len(body), 70)), 7)]


def _never_ending(body: bytes) -> list[bytes]:
    return [_chunk(n, body[:CHUNK_BYTES], last=False) for n in range(70)]


def _chunk(call_id: int, piece: bytes, *, last: bool) -> bytes:
    return struct.pack("<IQ", len(piece) + 8 | CHUNK | (LAST if last else 0), call_id) + piece


_LIES = (0, 1, 7, MAX_FRAME_BYTES + 1, CHUNK, CHUNK | 7, CHUNK | 9, LAST | 1, 2**32 - 1)
_WAYS: tuple[Callable[[bytes], list[bytes]], ...] = (_whole, _whole, _whole, _whole, _in_chunks, _never_ending)
