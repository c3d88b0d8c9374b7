"""A made-up model (engine/sim/model.py): logits from tables, indexed by the last tokens and their positions; text is bytes.

    row = A[t0] + B[t1] + C[t2] + D[p0] + E[p0 - p1]        t0, p0: the last token and its position

Letters are likely, so that it babbles; a few rows are peaked and a few are flat, so that predicates fire; the position moves every
row a little, so that a token computed at a wrong place is seen. Another `Model` may be given to the simulator: rows by a script,
for a test that needs its program to meet a certain distribution.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import pack_tokens, unpack_tokens
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.effect import TextJob

Row = NDArray[np.float32]  # [vocab_size] raw logits
END, USER, ASSISTANT, SYSTEM, TOOL = range(256, 261)
ROLES = {"user": USER, "assistant": ASSISTANT, "system": SYSTEM, "tool": TOOL}
SPECIAL = {END: "<|end|>", **{token: f"<|{role}|>" for role, token in ROLES.items()}}
VOCAB_SIZE = 264
CONTEXT = 3  # tokens that a row of the babbling model depends on
_LETTERS = b" etaoinshrdlucmfwygpbvk"
_TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


class Model(Protocol):
    """What gives rows."""

    vocab_size: int
    context: int | None  # how many of the file's last tokens a row depends on; None: all

    def row(self, context: Sequence[tuple[int, int]]) -> Row:
        """Raw logits after these (token, position) pairs: the last `context` of the file, fewer at its start.

        Raises:
            SymphonyError: there is no row; the call that wants it fails so.
        """


class SimModel:
    """Deterministic under `seed`."""

    vocab_size = VOCAB_SIZE
    context: int | None = CONTEXT

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        rng = np.random.default_rng(seed)
        size = (VOCAB_SIZE, VOCAB_SIZE)
        self._last = rng.normal(0, 1.6, size).astype(np.float32) * rng.uniform(0.4, 1.8, (VOCAB_SIZE, 1)).astype(np.float32)
        self._second = rng.normal(0, 1.0, size).astype(np.float32)
        self._third = rng.normal(0, 0.5, size).astype(np.float32)
        self._position = rng.normal(0, 0.15, (97, VOCAB_SIZE)).astype(np.float32)
        self._gap = rng.normal(0, 0.5, (31, VOCAB_SIZE)).astype(np.float32)
        self._gap[1] = 0
        base = np.full(VOCAB_SIZE, -4.0, np.float32)
        base[list(_LETTERS)] = 4.0
        base[[ord("."), ord("\n"), ord(",")]] = 2.0
        base[END] = 1.0
        base[END + 1 :] = -12.0
        self._base = base

    def row(self, context: Sequence[tuple[int, int]]) -> Row:
        token, position = context[-1]
        logits: Row = self._base + self._last[token] + self._position[position % 97]
        if len(context) > 1:
            logits += self._second[context[-2][0]]
            logits += self._gap[(position - context[-2][1]) % 31]
        if len(context) > 2:
            logits += self._third[context[-3][0]]
        return logits


# ---- text


def encode(text: str) -> list[int]:
    try:
        return list(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the text is no Unicode: {error.reason} at {error.start}") from None


def decode(tokens: Sequence[int], skip_special: bool = True) -> str:
    parts: list[bytes] = []
    for t in tokens:
        parts.append(bytes((t,)) if t < 256 else b"" if skip_special else SPECIAL.get(t, "").encode())
    return b"".join(parts).decode(errors="replace")


def text_result(job: TextJob) -> Any:
    """The answer of a text call. Raises InvalidArgument."""
    a = job.args
    if job.op == "tokenize":
        return calls.TokensResult(pack_tokens(encode(a.text)))
    if job.op == "detokenize":
        return calls.TextResult(decode(unpack_tokens(a.tokens), a.skip_special))
    if job.op == "render_chat":
        return calls.TokensResult(pack_tokens(render_chat(a)))
    return calls.JsonResult(json.dumps(parse_tools(a)))


def render_chat(a: calls.RenderChat) -> list[int]:
    messages = _list(a.messages, "messages")
    if not messages or not all(isinstance(m, dict) and m.get("role") in ROLES for m in messages):
        raise InvalidArgument('messages must be a non-empty list of {"role": ..., "content": ...}')
    tokens = [SYSTEM, *encode(json.dumps(_list(a.tools, "tools"))), ord("\n")] if a.tools else []
    for m in messages:
        tokens += [ROLES[m["role"]], *encode(str(m.get("content", ""))), ord("\n")]
    return [*tokens, ASSISTANT] if a.add_generation_prompt else tokens


def parse_tools(a: calls.ParseTools) -> dict[str, Any]:
    """Hermes' form: <tool_call>{"name": ..., "arguments": {...}}</tool_call>."""
    if a.parser not in ("hermes", None):
        raise InvalidArgument(f"no tool parser is called {a.parser!r}; there are: hermes")
    found: list[dict[str, str]] = []
    for text in _TOOL_CALL.findall(a.text):
        try:
            call = json.loads(text)
            found.append({"id": f"call-{len(found)}", "name": call["name"], "arguments": json.dumps(call.get("arguments", {}))})
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"content": a.text, "tool_calls": []}
    return {"content": _TOOL_CALL.sub("", a.text).strip() or None, "tool_calls": found}


def _list(text: str, name: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name} is not JSON: {error}") from None
    if not isinstance(value, list):
        raise InvalidArgument(f"{name} must be a JSON list")
    return value
