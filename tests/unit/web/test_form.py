"""A program's output in OpenAI's three forms, read by OpenAI's own types."""

from __future__ import annotations

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import Response

from vllm_symphony.web.chat import Chat, Completions
from vllm_symphony.web.form import DONE, LENGTH, STOP, Count, Outcome, Reply
from vllm_symphony.web.responses import Responses

COUNT = Count(5, 3)


def reply(**body: object) -> Reply:
    return Reply("lip:ops/x@1", 7, body, 1_700_000_000)


@pytest.mark.parametrize("finish", [STOP, LENGTH])
def test_whole_answers_are_what_openai_calls_so(finish):
    outcome = Outcome(finish, COUNT)

    chat = ChatCompletion.model_validate(Chat().whole(reply(), "said", outcome))
    text = Completion.model_validate(Completions().whole(reply(), "said", outcome))
    response = Response.model_validate(Responses().whole(reply(), "said", outcome))

    assert (chat.id, chat.choices[0].message.content, chat.choices[0].finish_reason) == ("chatcmpl-lip-7", "said", finish)
    assert (text.id, text.choices[0].text, text.choices[0].finish_reason) == ("cmpl-lip-7", "said", finish)
    assert (response.id, response.output_text) == ("resp_lip_7", "said")
    assert response.status == ("completed" if finish == STOP else "incomplete")
    assert (response.incomplete_details is None) == (finish == STOP)
    for usage in (chat.usage, text.usage):
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 3, 8)
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (5, 3, 8)


@pytest.mark.parametrize("counts", [False, True])
def test_a_chat_in_pieces_ends_with_its_reason_and_if_asked_its_usage(counts):
    stream = Chat().stream(reply(stream_options={"include_usage": counts}))

    events = [*stream.opening(), stream.delta("so"), stream.delta(" far"), *stream.closing("so far", Outcome(LENGTH, COUNT))]

    assert events[-1] is DONE
    chunks = [ChatCompletionChunk.model_validate(event.data) for event in events[:-1]]
    said = [c for c in chunks if c.choices]
    assert "".join(c.choices[0].delta.content or "" for c in said) == "so far"
    assert said[-1].choices[0].finish_reason == LENGTH
    assert [c.usage.total_tokens for c in chunks if c.usage] == [8] * counts


def test_a_response_that_a_limit_ended_is_incomplete_in_its_last_event():
    stream = Responses().stream(reply())

    events = [*stream.opening(), stream.delta("so"), *stream.closing("so", Outcome(LENGTH, COUNT))]

    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[-1].name, events[-1].data["response"]["status"]) == ("response.incomplete", "incomplete")
    assert all(event.name == event.data["type"] for event in events)
