"""Arguments of a tool against its JSON schema (tools/schema.py).

Schemas of the operator's file are checked when it is read, those of an MCP server when it is listed. A schema may come from a
server that nobody here wrote: references to other documents are refused (they would be fetched). Regular expressions of such a
server are not applied, for one of them can stop the host: it checks them itself.
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


def without_patterns(schema: Any) -> Any:
    """A copy without regular expressions, for schemas that others wrote."""
    if isinstance(schema, dict):
        return {
            key: _named(value) if key == "properties" else without_patterns(value)
            for key, value in schema.items()
            if key not in ("pattern", "patternProperties")
        }
    return [without_patterns(value) for value in schema] if isinstance(schema, list) else schema


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


def _named(properties: Any) -> Any:
    """Properties may be called `pattern`."""
    return {k: without_patterns(v) for k, v in properties.items()} if isinstance(properties, dict) else properties


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
