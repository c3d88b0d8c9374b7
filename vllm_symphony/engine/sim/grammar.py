"""Grammars of the simulator (engine/sim/grammar.py): choice, regex, and JSON schemas by way of regex; by derivatives of bytes.

    state --byte--> derivative            a byte is allowed when its derivative matches something; the end token when the state
                                          matches the empty text

A pattern is read by Python's own parser and turned into five kinds of nodes over sets of bytes (bit masks of 256). Characters past
ASCII in sets, anchors, look-around and back references are refused, as are EBNF and most of JSON schema.
Source: Brzozowski, "Derivatives of regular expressions" (JACM 1964).
"""

from __future__ import annotations

import json
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parser  # type: ignore[import-not-found]
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from vllm_symphony.abi.types import Grammar
from vllm_symphony.engine.sim.model import END, VOCAB_SIZE
from vllm_symphony.engine.sim.sampler import Mask
from vllm_symphony.errors import InvalidArgument, NotSupported

Node = tuple[Any, ...]  # ("set", mask) | ("cat", a, b) | ("alt", nodes) | ("rep", a, low, high or None) | EMPTY | NOTHING
EMPTY: Node = ("empty",)
NOTHING: Node = ("nothing",)
_PRINTABLE = sum(1 << b for b in range(32, 127))
_CLASSES = {
    sre.CATEGORY_DIGIT: b"0123456789",
    sre.CATEGORY_SPACE: b" \t\n\r\f\v",
    sre.CATEGORY_WORD: b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_",
}
_NOT = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
}
_STRING, _INTEGER = r'"[^"\\]{%s,%s}"', r"-?(0|[1-9][0-9]{0,8})"
_MAX_RANGE = 10_000


def compile_grammar(g: Grammar) -> Node:
    """The state at the start. Raises InvalidArgument or NotSupported."""
    if g.kind == "ebnf":
        raise NotSupported("the simulator has no EBNF grammars: use regex or choice")
    try:
        return _compiled(g.kind, g.text)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"invalid grammar: {type(error).__name__}: {str(error)[:300]}") from None


def state_after(g: Grammar, tokens: Sequence[int]) -> Node:
    """The state after the file's tokens since its start. Raises InvalidArgument when they do not fit."""
    state = compile_grammar(g)
    for t in tokens:
        state = derive(state, t) if t < 256 else NOTHING
        if state == NOTHING:
            raise InvalidArgument(f"the file's last {len(tokens)} tokens, since the grammar's start, do not fit the grammar")
    return state


@lru_cache(4096)
def mask_of(state: Node) -> Mask:
    """What may come next; read only."""
    bits = _first(state)
    mask = np.zeros(VOCAB_SIZE, np.bool_)
    mask[[b for b in range(256) if bits >> b & 1]] = True
    mask[END] = matches_empty(state)
    return mask


# ---- derivatives


@cache
def matches_empty(n: Node) -> bool:
    kind = n[0]
    if kind == "cat":
        return matches_empty(n[1]) and matches_empty(n[2])
    if kind == "alt":
        return any(map(matches_empty, n[1]))
    return kind == "empty" or (kind == "rep" and (n[2] == 0 or matches_empty(n[1])))


@lru_cache(1 << 16)
def derive(n: Node, byte: int) -> Node:
    """What must follow after `byte`."""
    kind = n[0]
    if kind == "set":
        return EMPTY if n[1] >> byte & 1 else NOTHING
    if kind == "cat":
        first = _cat(derive(n[1], byte), n[2])
        return _alt((first, derive(n[2], byte))) if matches_empty(n[1]) else first
    if kind == "alt":
        return _alt(derive(part, byte) for part in n[1])
    if kind == "rep":
        low, high = max(n[2] - 1, 0), None if n[3] is None else n[3] - 1
        return _cat(derive(n[1], byte), _rep(n[1], low, high))
    return NOTHING


@lru_cache(1 << 14)
def _first(n: Node) -> int:
    """The bytes that may come first. Exact, since no node is built that matches nothing."""
    kind = n[0]
    if kind == "set":
        return int(n[1])
    if kind == "cat":
        return _first(n[1]) | (_first(n[2]) if matches_empty(n[1]) else 0)
    if kind == "alt":
        bits = 0
        for part in n[1]:
            bits |= _first(part)
        return bits
    return _first(n[1]) if kind == "rep" else 0


def _cat(a: Node, b: Node) -> Node:
    if a == NOTHING or b == NOTHING:
        return NOTHING
    if a == EMPTY or b == EMPTY:
        return b if a == EMPTY else a
    return ("cat", a, b)


def _alt(nodes: Iterable[Node]) -> Node:
    kept = tuple(dict.fromkeys(n for n in nodes if n != NOTHING))
    return NOTHING if not kept else kept[0] if len(kept) == 1 else ("alt", kept)


def _rep(a: Node, low: int, high: int | None) -> Node:
    if high == 0 or a in (EMPTY, NOTHING):
        return EMPTY if high == 0 or low == 0 or a == EMPTY else NOTHING
    return a if low == high == 1 else ("rep", a, low, high)


# ---- from texts


@lru_cache(256)
def _compiled(kind: str, text: str) -> Node:
    if kind == "choice":
        return _one_of([option.encode() for option in json.loads(text)])
    if kind == "regex":
        return _regex(text)
    schema = json.loads(text)
    if not isinstance(schema, dict):
        raise InvalidArgument("invalid grammar: a JSON schema must be an object")
    return _schema(schema)


def _one_of(options: Sequence[bytes]) -> Node:
    """A tree of common beginnings: alternatives without end would make each step slow."""
    groups: dict[int, list[bytes]] = {}
    for option in options:
        if option:
            groups.setdefault(option[0], []).append(option[1:])
    heads = [_cat(("set", 1 << byte), _one_of(rests)) for byte, rests in groups.items()]
    return _alt([*heads, EMPTY] if b"" in options else heads)


def _regex(pattern: str) -> Node:
    try:
        return _sequence(sre_parser.parse(pattern))
    except re.error as error:
        raise InvalidArgument(f"invalid grammar: {error}") from None
    except RecursionError:
        raise InvalidArgument("invalid grammar: the pattern is nested too deeply") from None


def _sequence(items: Any) -> Node:
    node = EMPTY
    for op, value in reversed(list(items)):
        node = _cat(_item(op, value), node)
    return node


def _item(op: Any, value: Any) -> Node:
    if op is sre.LITERAL:
        return _one_of([chr(value).encode()])
    if op is sre.ANY:
        return ("set", _PRINTABLE)
    if op is sre.NOT_LITERAL:
        return ("set", _PRINTABLE & ~(1 << value))
    if op is sre.IN:
        return _set(value)
    if op is sre.BRANCH:
        return _alt(_sequence(branch) for branch in value[1])
    if op is sre.SUBPATTERN:
        return _sequence(value[3])
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        low, high, items = value
        return _rep(_sequence(items), low, None if high is sre.MAXREPEAT else high)
    raise NotSupported(f"the simulator's regular expressions have no {str(op).lower()}")


def _set(items: Any) -> Node:
    bits, negated = 0, False
    for op, value in items:
        if op is sre.NEGATE:
            negated = True
        elif op is sre.CATEGORY:
            known = _CLASSES[_NOT.get(value, value)]
            own = sum(1 << b for b in known)
            bits |= _PRINTABLE & ~own if value in _NOT else own
        else:
            low, high = value if op is sre.RANGE else (value, value)
            if low > 127:
                raise NotSupported("the simulator's character sets are ASCII")
            bits |= sum(1 << b for b in range(low, min(high, 127) + 1))
    return ("set", _PRINTABLE & ~bits if negated else bits) if not negated or _PRINTABLE & ~bits else NOTHING


def _schema(s: dict[str, Any]) -> Node:
    if "enum" in s or "const" in s:
        return _one_of([json.dumps(v).encode() for v in s.get("enum", [s.get("const")])])
    kind = s.get("type")
    if kind == "string":
        return _regex(s["pattern"].join('""') if "pattern" in s else _STRING % (s.get("minLength", 0), s.get("maxLength", 40)))
    if kind == "integer":
        low, high = s.get("minimum"), s.get("maximum")
        if low is not None and high is not None and 0 <= high - low <= _MAX_RANGE:
            return _one_of([str(i).encode() for i in range(low, high + 1)])
        return _regex(_INTEGER)
    if kind == "number":
        return _regex(_INTEGER + r"(\.[0-9]{1,6})?")
    if kind in ("boolean", "null"):
        return _one_of([b"true", b"false"] if kind == "boolean" else [b"null"])
    if kind == "array":
        item = _schema(s.get("items", {"type": "string"}))
        return _cat(_one_of([b"["]), _cat(_alt((_cat(item, _rep(_cat(_one_of([b", "]), item), 0, 7)), EMPTY)), _one_of([b"]"])))
    if kind == "object":
        node = _one_of([b"}"])
        for i, (name, part) in reversed(list(enumerate(s.get("properties", {}).items()))):
            node = _cat(_one_of([f"{', ' if i else ''}{json.dumps(name)}: ".encode()]), _cat(_schema(part), node))
        return _cat(_one_of([b"{"]), node)
    raise NotSupported(f"the simulator's JSON schemas have no type {kind!r}")
