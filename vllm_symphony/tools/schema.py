"""Arguments of a tool against its JSON schema (tools/schema.py).

Schemas of the operator's file are checked when it is read, and applied as they are; references to other documents are refused (they
would be fetched). A schema of an MCP server may be anybody's: a regular expression or a chain of references in it can take a core
for hours. Of it only the surface is applied; the server checks the rest of its own schema itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
from jsonschema.validators import validator_for
from referencing import Registry

from vllm_symphony.errors import InvalidArgument

MAX_SCHEMA_BYTES = 32 << 10
MAX_DEPTH = 32
_MAX_MESSAGE = 300
_TYPES = ("string", "integer", "number", "boolean", "object", "array", "null")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Is it a JSON schema of an object that we can check? Raises InvalidArgument."""
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as e:
        raise InvalidArgument(f"is no JSON: {e}") from None
    if size > MAX_SCHEMA_BYTES:
        raise InvalidArgument(f"has {size} bytes, the limit is {MAX_SCHEMA_BYTES}", limit=MAX_SCHEMA_BYTES)
    if schema.get("type") != "object":
        raise InvalidArgument('must have type = "object"')
    _walk(schema, 0)
    try:
        validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as e:
        raise InvalidArgument(f"is no JSON schema: {e.message[:_MAX_MESSAGE]}") from None


def shallow(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Of a stranger's schema what can be checked at no risk: names, which of them must be there, plain types and choices.

    Raises InvalidArgument when it is too large, or none of an object.
    """
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise InvalidArgument(f"has more than {MAX_SCHEMA_BYTES} bytes", limit=MAX_SCHEMA_BYTES)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema.get("type") != "object" or not isinstance(properties, dict) or not isinstance(required, list):
        raise InvalidArgument('must have type = "object", with properties and a list of those that are required')
    checked: dict[str, Any] = {
        "type": "object",
        "properties": {name: _plain(value) for name, value in properties.items()},
        "required": [name for name in required if isinstance(name, str)],
    }
    if schema.get("additionalProperties") is False:
        checked["additionalProperties"] = False
    return checked


def _plain(value: Any) -> dict[str, Any]:
    """The type and the choices of a property, where they are plain."""
    if not isinstance(value, dict):
        return {}
    kinds, choices = value.get("type"), value.get("enum")
    listed = [kinds] if isinstance(kinds, str) else kinds
    plain: dict[str, Any] = {}
    if isinstance(listed, list) and listed and all(kind in _TYPES for kind in listed):
        plain["type"] = listed
    if isinstance(choices, list) and choices and all(isinstance(c, str | int | float | bool | None) for c in choices):
        plain["enum"] = choices
    return plain


def check_arguments(schema: Mapping[str, Any], arguments: Any) -> None:
    """Do the arguments fit? Raises InvalidArgument that says where not."""
    if not isinstance(arguments, dict):
        raise InvalidArgument(f"arguments must be an object, not {type(arguments).__name__}")
    cls = validator_for(schema, jsonschema.Draft202012Validator)
    try:
        error = jsonschema.exceptions.best_match(cls(schema, registry=Registry()).iter_errors(arguments))
    except (RecursionError, jsonschema.exceptions._WrappedReferencingError) as e:
        raise InvalidArgument(f"the tool's schema cannot be applied: {str(e)[:_MAX_MESSAGE]}") from None
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path)
        raise InvalidArgument(f"arguments{'.' + where if where else ''}: {error.message[:_MAX_MESSAGE]}", at=where)


def _walk(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        reference = value.get("$ref", "#")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InvalidArgument(f"refers to another document: {reference[:_MAX_MESSAGE]}")
        for inner in value.values():
            _walk(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, depth + 1)
