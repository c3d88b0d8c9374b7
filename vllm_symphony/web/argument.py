"""From a request to a program's arguments (web/argument.py).

    symphony.args              by name, as they are
    metadata                   by name, those that the program declares; texts are read as what it declares
    messages                   the messages, if it declares them
    prompt, task or text       the last user message's text: the first of these that it declares and was not given
    max_tokens, seed, ...      fields of the request, if it declares them

A parameter that counts and that the program does not declare is refused rather than ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.web.form import Form, text_of

TEXTS = ("prompt", "task", "text")
FIELDS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "tools", "tool_choice", "response_format", "user",
    "presence_penalty", "frequency_penalty", "reasoning_effort", "n", "logprobs", "top_logprobs",
)  # fmt: skip
_SAME = {"max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "top_logprobs": (0,), "tools": ([],), "functions": ([],), "suffix": ("",), "logit_bias": ({},),
    "response_format": ({"type": "text"},), "text": ({}, {"format": {"type": "text"}}),
}  # fmt: skip


def arguments(form: Form, body: Mapping[str, Any], schema: str) -> dict[str, Any]:
    """The arguments of the entry whose schema is given ("": it says nothing of them). Raises InvalidArgument."""
    declared = _declared(schema)
    messages = form.messages(body)
    _demand_heeded(form, body, declared)
    given = dict(_from_metadata(body, declared))
    given.update(_given(body))
    for name in FIELDS:
        value = next((body[n] for n in (name, *(n for n, same in _SAME.items() if same == name)) if body.get(n) is not None), None)
        if name in declared and value is not None:
            given.setdefault(name, value)
    if "messages" in declared:
        given.setdefault("messages", messages)
    for name in TEXTS:
        if name in declared and name not in given:
            given[name] = _last_words(messages)
            break
    return given


def _declared(schema: str) -> Mapping[str, Any]:
    try:
        properties = json.loads(schema).get("properties", {}) if schema else {}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return properties if isinstance(properties, dict) else {}


def _demand_heeded(form: Form, body: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    for name in form.refused:
        value = body.get(name)
        if value is None or value is False or name in declared or value in _NEUTRAL.get(name, ()):
            continue
        raise InvalidArgument(
            f"the program heeds no {name}: leave it out, or give what it declares by symphony.args "
            f"({', '.join(declared) or 'it says of none'})",
            param=name,
        )


def _from_metadata(body: Mapping[str, Any], declared: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    metadata = body.get("metadata")
    for name, value in metadata.items() if isinstance(metadata, dict) else ():
        if name in declared:
            yield name, _read(value, declared[name])


def _read(value: Any, spec: Any) -> Any:
    """Metadata are texts: one that stands for a number, a truth or a list is read as such where that is declared."""
    kinds = spec.get("type") if isinstance(spec, dict) else None
    if not isinstance(value, str) or kinds is None or "string" in (kinds if isinstance(kinds, list) else [kinds]):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    said = body.get("symphony")
    if said is None:
        return {}
    if not isinstance(said, dict) or not said.keys() <= {"args"} or not isinstance(said.get("args", {}), dict):
        raise InvalidArgument('for a program symphony is {"args": {NAME: VALUE}}', param="symphony")
    return dict(said.get("args", {}))


def _last_words(messages: list[Any]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message.get("content"))
    raise InvalidArgument("no message of a user", param="messages")
