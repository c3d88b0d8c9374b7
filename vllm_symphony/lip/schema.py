"""A program's arguments as JSON schema, and back (lip/schema.py).

    async def main(task: str, n: int = 4)   <->   {"type": "object", "properties": {"task": {"type": "string"},
                                                   "n": {"type": "integer", "default": 4}}, "required": ["task"], ...}

The registry keeps the schema beside a program, so that who runs it by name is shown its options and need not have its text. What
it says is for people: the program's process fits the arguments to the real signature before `main` runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vllm_symphony.errors import BadProgram
from vllm_symphony.lip.program import Option, OptionType, parse

_WORDS: Mapping[OptionType, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "list[str]": {"type": "array", "items": {"type": "string"}},
    "json": {},
}


def schema_of(source: str, entry: str = "main") -> str:
    """The schema of the entry's arguments, as text. Raises BadProgram as `program.parse`."""
    declared = parse(source, entry)
    properties = {option.name: _property(option) for option in declared.options}
    required = [option.name for option in declared.options if option.required]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if declared.doc:
        schema["description"] = declared.doc
    return json.dumps(schema, ensure_ascii=False)


def options_of(schema: str) -> tuple[Option, ...] | None:
    """The options that a schema declares; None when it says nothing of them. Raises BadProgram for what is no schema."""
    if not schema:
        return None
    try:
        read = json.loads(schema)
        properties, required = read.get("properties", {}), set(read.get("required", ()))
        return tuple(_option(name, spec, name in required) for name, spec in properties.items())
    except (ValueError, TypeError, AttributeError) as e:
        raise BadProgram(f"the program's schema is none: {e}") from None


def doc_of(schema: str) -> str:
    """What the schema says the program does."""
    text = json.loads(schema).get("description", "") if schema else ""
    return text if isinstance(text, str) else ""


def _property(option: Option) -> dict[str, Any]:
    spec = dict(_WORDS[option.type])
    if option.nullable and "type" in spec:
        spec["type"] = [spec["type"], "null"]
    if option.help:
        spec["description"] = option.help
    if not option.required and _is_json(option.default):
        spec["default"] = option.default
    return spec


def _option(name: str, spec: Mapping[str, Any], required: bool) -> Option:
    said = spec.get("type")
    types = [said] if isinstance(said, str) else [word for word in said or () if isinstance(word, str)]
    nullable = "null" in types or spec.get("default", 0) is None
    words = [word for word in types if word != "null"]
    kind: OptionType = "json"
    if len(words) == 1:
        plain = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
        kind = plain.get(words[0], "json")  # type: ignore[assignment]
        if words[0] == "array" and spec.get("items") == {"type": "string"}:
            kind = "list[str]"
    return Option(name, kind, spec.get("default"), required, nullable, str(spec.get("description", "")))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
