"""Calls and results as plain JSON (runtime/wasm/as_json.py): what a guest in any language reads and writes without our packing.

    dataclass of abi/calls.py      the guest's JSON
    tokens, positions, ids ...     list of integers        (packed uint32)
    logprobs                       list of numbers         (packed float32)
    other bytes                    base64 text             (`logits` of a row: float32, little-endian)
    NaN, infinity                  null

Which is which goes by the field's name, as the docstrings of the dataclasses say. Everything else is as JSON has it. Fields that
the table does not know are passed on: the kernel refuses them with its own words.
"""

from __future__ import annotations

import base64
import binascii
import math
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from vllm_symphony.abi.types import pack_floats, pack_tokens, unpack_floats, unpack_tokens
from vllm_symphony.errors import InvalidArgument

TOKENS = frozenset({"tokens", "positions", "indices", "stop_tokens", "ids", "allowed"})
FLOATS = frozenset({"logprobs"})


def to_call(cls: type, args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the codec wants them: an object with the fields of `cls`, bytes packed.

    Raises InvalidArgument for what is no list of token ids, no base64.
    """
    hints = _hints(cls)
    return {name: _packed(name, hints[name], value) if name in hints else value for name, value in args.items()}


def to_json(value: Any, name: str = "") -> Any:
    """A result as `json.dumps` takes it. `name`: of the field that it stands in."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return _unpacked(name, value)
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    return {f.name: to_json(getattr(value, f.name), f.name) for f in fields(value)}


def _packed(name: str, hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if hint is bytes:
        return _bytes(name, value)
    if get_origin(hint) is tuple and isinstance(value, list):
        return [_packed(name, get_args(hint)[0], v) for v in value]
    if is_dataclass(hint) and isinstance(value, dict):
        return to_call(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is dict and isinstance(value, dict) and get_args(hint)[0] is int:
        return {_key(name, k): v for k, v in value.items()}  # the keys of a JSON object are texts
    return value


def _bytes(name: str, value: Any) -> bytes:
    try:
        if name in TOKENS or name in FLOATS:
            if not isinstance(value, list):
                raise TypeError(f"a list, not {type(value).__name__}")
            return pack_tokens(value) if name in TOKENS else pack_floats(value)
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, OverflowError, binascii.Error) as e:
        kind = "token ids" if name in TOKENS else "numbers" if name in FLOATS else "base64"
        raise InvalidArgument(f"{name}: no {kind}: {e}") from None


def _unpacked(name: str, value: bytes) -> list[int] | list[float | None] | str:
    if name in TOKENS:
        return unpack_tokens(value)
    if name in FLOATS:
        return [x if math.isfinite(x) else None for x in unpack_floats(value)]
    return base64.b64encode(value).decode()


def _key(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"{name}: {text[:40]!r} is no token id") from None


_hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)
