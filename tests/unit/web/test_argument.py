"""From a request to a program's arguments."""

import json
from typing import Any

import pytest

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.web.argument import arguments
from vllm_symphony.web.chat import Chat, Completions
from vllm_symphony.web.responses import Responses

SAID = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "no"}, {"role": "user", "content": "last"}]


def schema(**types: Any) -> str:
    return json.dumps({"type": "object", "properties": {name: {"type": t} for name, t in types.items()}})


def of_chat(declared: str, **body: Any) -> dict[str, Any]:
    return arguments(Chat(), {"messages": SAID, **body}, declared)


@pytest.mark.parametrize(("declared", "wanted"), [
    (("messages",), {"messages": SAID}),
    (("task",), {"task": "last"}),
    (("text", "task"), {"task": "last"}),
    (("messages", "prompt"), {"messages": SAID, "prompt": "last"}),
    (("other",), {}),
    ((), {}),
])  # fmt: skip
def test_what_the_user_said_goes_where_it_is_declared(declared, wanted):
    assert of_chat(schema(**dict.fromkeys(declared, "string"))) == wanted


def test_what_was_given_is_not_overwritten():
    given = {"task": "given", "messages": [], "max_tokens": 1}

    found = of_chat(schema(task="string", text="string", messages="array", max_tokens="integer"), max_tokens=9,
                    symphony={"args": given})  # fmt: skip

    assert found == {**given, "text": "last"}, "the first of prompt, task, text that was not given"


def test_metadata_are_texts_of_what_is_declared():
    said = {"n": "4", "deep": "true", "words": '["a"]', "name": "4", "maybe": "null", "wrong": "four", "ticket": "X-1"}
    declared = schema(n="integer", deep="boolean", words="array", name="string", maybe=["integer", "null"], wrong="integer")

    found = of_chat(declared, metadata=said)

    assert found == {"n": 4, "deep": True, "words": ["a"], "name": "4", "maybe": None, "wrong": "four"}


def test_arguments_are_given_as_they_are_though_nothing_is_declared():
    assert of_chat("", symphony={"args": {"x": [1, {"y": None}]}}, metadata={"z": "1"}, temperature=0.5) == {"x": [1, {"y": None}]}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_limit_on_tokens_has_one_name(field):
    assert of_chat(schema(max_tokens="integer"), **{field: 7}) == {"max_tokens": 7}


def test_a_parameter_that_is_declared_is_heeded():
    tools = [{"type": "function"}]

    assert of_chat(schema(tools="array", n="integer"), tools=tools, n=3) == {"tools": tools, "n": 3}


@pytest.mark.parametrize(("form", "body"), [
    (Chat(), {"messages": SAID, "top_logprobs": 3}), (Chat(), {"messages": SAID, "n": 2}),
    (Completions(), {"prompt": "x", "echo": True}), (Completions(), {"prompt": "x", "best_of": 2}),
    (Completions(), {"prompt": ["x", "y"]}), (Completions(), {"prompt": [1, 2]}), (Completions(), {}),
    (Responses(), {"input": "x", "previous_response_id": "r"}), (Responses(), {"input": []}), (Responses(), {"input": 1}),
    (Responses(), {"input": "x", "text": {"format": {"type": "json_schema"}}}),
])  # fmt: skip
def test_what_no_program_can_heed_is_refused_by_its_name(form, body):
    with pytest.raises(InvalidArgument) as refused:
        arguments(form, body, schema(prompt="string"))

    assert refused.value.values["param"] in {*body, "prompt"}


def test_parts_of_text_are_one_text():
    said = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    asked = [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]

    assert arguments(Chat(), {"messages": said}, schema(task="string")) == {"task": "ab"}
    assert arguments(Responses(), {"input": asked, "instructions": "brief"}, schema(task="string")) == {"task": "a"}


@pytest.mark.parametrize("declared", ["{", "[]", '{"properties": 1}', "null", "1"])
def test_a_schema_that_says_nothing_is_none(declared):
    assert of_chat(declared) == {}
