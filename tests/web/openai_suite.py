"""What the official client of OpenAI does with a plain model, the same at each door: test_openai.py, test_plugin.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import openai
from openai import OpenAI

MODEL = "tiny"
MESSAGES: Any = [{"role": "user", "content": "Where is the lamp?"}]
GREEDY: Any = {"temperature": 0.0, "max_tokens": 12}
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a lamp.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"lamp": {"type": "string", "enum": ["red", "green"]}},
            "required": ["lamp"],
            "additionalProperties": False,
        },
    },
}
ANSWER = {
    "type": "object",
    "properties": {"lit": {"type": "boolean"}, "where": {"type": "string", "enum": ["hall", "attic"]}},
    "required": ["lit", "where"],
    "additionalProperties": False,
}


def chats(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, **GREEDY)

    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def streams_what_it_says_whole(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, **GREEDY)
    pieces = list(client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
    ))  # fmt: skip

    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == whole.choices[0].finish_reason
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def calls_tools(client: OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[LOOK], tool_choice=choice, temperature=0.0, max_tokens=64
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "look"
        assert json.loads(call.function.arguments)["lamp"] in ("red", "green")

    pieces = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[LOOK], tool_choice="required", temperature=0.0, max_tokens=64, stream=True
    )
    calls = [c for p in pieces if p.choices for c in p.choices[0].delta.tool_calls or ()]
    assert json.loads("".join(c.function.arguments or "" for c in calls))["lamp"] in ("red", "green")


def keeps_to_a_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0.0, max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}},
    )  # fmt: skip

    said = json.loads(answer.choices[0].message.content)
    assert set(said) == {"lit", "where"} and said["where"] in ("hall", "attic") and isinstance(said["lit"], bool)


def tells_logprobs(client: OpenAI) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    text = client.completions.create(model=MODEL, prompt="The lamp", logprobs=2, **GREEDY)

    for token in chat.choices[0].logprobs.content:
        assert len(token.top_logprobs) == 3 and token.logprob == max(t.logprob for t in token.top_logprobs)
        assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1 + 1e-4
    assert len(text.choices[0].logprobs.tokens) == text.usage.completion_tokens


def completes(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="The lamp is", **GREEDY)
    pieces = list(client.completions.create(model=MODEL, prompt="The lamp is", stream=True, **GREEDY))
    both = client.completions.create(model=MODEL, prompt=["The lamp is", "At dusk"], **GREEDY)

    assert "".join(p.choices[0].text for p in pieces) == whole.choices[0].text == both.choices[0].text
    assert [c.index for c in both.choices] == [0, 1]


def responds(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "input": "Where is the lamp?", "temperature": 0.0, "max_output_tokens": 12}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()

    assert whole.output_text and final.output_text == whole.output_text
    assert types[0] == "response.created" and types[-1] in ("response.completed", "response.incomplete")
    assert whole.usage.output_tokens == final.usage.output_tokens


def gives_several_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, n=3, seed=5, temperature=1.0, max_tokens=8)

    assert [c.index for c in answer.choices] == [0, 1, 2]


def repeats_itself_with_a_seed(client: OpenAI) -> None:
    def draw(seed: int) -> str | None:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, seed=seed, temperature=1.5, max_tokens=16)
        return answer.choices[0].message.content

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(4)}) > 1


def stops_where_told(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="The lamp is", extra_body={"ignore_eos": True}, **GREEDY)
    words = whole.choices[0].text.split()
    stopped = client.completions.create(
        model=MODEL, prompt="The lamp is", stop=[words[1]], extra_body={"ignore_eos": True}, **GREEDY
    )

    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == whole.choices[0].text[: whole.choices[0].text.index(words[1])]


def refuses_what_is_wrong(client: OpenAI) -> None:
    for error, more in [(openai.NotFoundError, {"model": "none"}), (openai.BadRequestError, {"max_tokens": 100_000}),
                        (openai.BadRequestError, {"temperature": -1.0}), (openai.BadRequestError, {"messages": "x"})]:  # fmt: skip
        try:
            client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **more})
        except error:
            continue
        raise AssertionError(f"{more} was taken")


def lists_models(client: OpenAI) -> None:
    assert MODEL in {m.id for m in client.models.list()}


SUITE: tuple[Callable[[OpenAI], None], ...] = (
    chats, streams_what_it_says_whole, calls_tools, keeps_to_a_schema, tells_logprobs, completes, responds, gives_several_answers,
    repeats_itself_with_a_seed, stops_where_told, refuses_what_is_wrong, lists_models,
)  # fmt: skip
