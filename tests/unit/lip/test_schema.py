"""A program's arguments as JSON schema: what the registry shows, and what the command line makes of it."""

import json

import pytest

from vllm_symphony.errors import BadProgram
from vllm_symphony.lip.program import parse
from vllm_symphony.lip.schema import doc_of, options_of, schema_of

SOURCE = '''
async def main(task: str, n: int = 4, rate: float = 0.5, fast: bool = False, tags: list[str] = [], shape: dict | None = None,
               who: str | None = None):
    """Sort tickets.

    Args:
        task: what to do
        n: how many
    """
'''


def test_the_options_of_a_schema_are_those_of_the_text():
    assert options_of(schema_of(SOURCE)) == parse(SOURCE).options


def test_a_schema_says_what_is_needed_and_what_each_is():
    schema = json.loads(schema_of(SOURCE))

    assert schema["required"] == ["task"]
    assert schema["properties"]["n"] == {"type": "integer", "description": "how many", "default": 4}
    assert schema["properties"]["who"]["type"] == ["string", "null"]
    assert doc_of(json.dumps(schema)) == "Sort tickets."


def test_a_default_that_json_cannot_say_is_left_out():
    schema = json.loads(schema_of("async def main(x={1, 2}, y=float('inf')):\n    pass\n"))

    assert "default" not in schema["properties"]["x"] and schema["required"] == []


def test_nothing_said_is_no_options_and_nothing_to_give_is_an_empty_list():
    assert options_of("") is None
    assert options_of(schema_of("async def main():\n    pass\n")) == ()


@pytest.mark.parametrize("schema", ["{", "[]", *(f'{{"properties": {what}}}' for what in ("3", '{"a": 3}', '{"a": {"type": 3}}'))])
def test_what_is_no_schema_is_told(schema):
    with pytest.raises(BadProgram, match="the program's schema is none"):
        options_of(schema)


@pytest.mark.parametrize("spec", [{}, {"type": "object"}, {"type": ["string", "integer"]}, {"type": "array"}])
def test_what_no_option_can_say_is_json(spec):
    (option,) = options_of(json.dumps({"properties": {"a": spec}}))

    assert option.type == "json"
