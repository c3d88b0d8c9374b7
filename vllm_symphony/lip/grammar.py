"""Constraints on what is sampled (lip/grammar.py): data for vLLM's structured-output backend. An invalid one is EINVAL at the call.

await file.generate(200, grammar=lip.json({"type": "object", ...}))         await dist.sample(grammar=lip.choice(["yes", "no"]))
"""

from __future__ import annotations

import json as codec
from collections.abc import Iterable, Mapping

from vllm_symphony.abi.types import Grammar
from vllm_symphony.errors import InvalidArgument


def json(schema: Mapping[str, object] | str) -> Grammar:
    """Text that is JSON of this schema (a JSON schema, as an object or as text)."""
    if isinstance(schema, str):
        return Grammar("json", schema)
    try:
        return Grammar("json", codec.dumps(schema))
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"the schema is not JSON: {e}") from None


def regex(pattern: str) -> Grammar:
    """Text that matches the whole pattern."""
    return Grammar("regex", pattern)


def ebnf(rules: str) -> Grammar:
    """Text of a context-free grammar in xgrammar's EBNF; it starts at `root`."""
    return Grammar("ebnf", rules)


def choice(options: Iterable[str]) -> Grammar:
    """One of these strings."""
    listed = [options] if isinstance(options, str) else list(options)
    if not listed or not all(isinstance(o, str) and o for o in listed):
        raise InvalidArgument("a choice needs at least one string, and none of them empty")
    return Grammar("choice", codec.dumps(listed))
