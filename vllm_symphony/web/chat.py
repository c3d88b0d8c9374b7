"""Chat and completions (web/chat.py): the two older forms. Chunks and objects as vLLM's own
(vllm/entrypoints/openai/chat_completion/protocol.py, completion/protocol.py, 0.32)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.web.form import DONE, Count, Event, Outcome, Reply, Stream

_BOTH = ("n", "logprobs", "logit_bias", "response_format", "structured_outputs", "prompt_logprobs", "use_beam_search")


class Chat:
    """POST /v1/chat/completions."""

    refused: tuple[str, ...] = (*_BOTH, "top_logprobs", "tools", "functions", "audio")

    def messages(self, body: Mapping[str, Any]) -> list[Any]:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise InvalidArgument("messages must be a list of messages that is not empty", param="messages")
        return messages

    def whole(self, reply: Reply, text: str, outcome: Outcome) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": outcome.finish, "stop_reason": None}
        return {**_head(reply, "chatcmpl", "chat.completion"), "choices": [choice], "usage": usage(outcome.count)}

    def stream(self, reply: Reply) -> Stream:
        return _ChatStream(reply)


class _ChatStream:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._head = _head(reply, "chatcmpl", "chat.completion.chunk")

    def opening(self) -> list[Event]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def delta(self, text: str) -> Event:
        return self._chunk({"content": text})

    def closing(self, text: str, outcome: Outcome) -> list[Event]:
        return [self._chunk({}, outcome.finish), *_last(self._reply, self._head, outcome)]

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return Event({**self._head, "choices": [choice]})


class Completions:
    """POST /v1/completions."""

    refused: tuple[str, ...] = (*_BOTH, "best_of", "echo", "suffix")

    def messages(self, body: Mapping[str, Any]) -> list[Any]:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            raise InvalidArgument("a program takes one prompt, as text", param="prompt")
        return [{"role": "user", "content": prompt}]

    def whole(self, reply: Reply, text: str, outcome: Outcome) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": outcome.finish, "stop_reason": None}
        return {**_head(reply, "cmpl", "text_completion"), "choices": [choice], "usage": usage(outcome.count)}

    def stream(self, reply: Reply) -> Stream:
        return _CompletionStream(reply)


class _CompletionStream:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._head = _head(reply, "cmpl", "text_completion")

    def opening(self) -> list[Event]:
        return []

    def delta(self, text: str) -> Event:
        return self._chunk(text, None)

    def closing(self, text: str, outcome: Outcome) -> list[Event]:
        return [self._chunk("", outcome.finish), *_last(self._reply, self._head, outcome)]

    def _chunk(self, text: str, finish: str | None) -> Event:
        return Event({**self._head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]})


def usage(count: Count) -> dict[str, Any]:
    """As both forms say it."""
    total = count.num_in + count.num_out
    return {"prompt_tokens": count.num_in, "completion_tokens": count.num_out, "total_tokens": total}


def _head(reply: Reply, prefix: str, kind: str) -> dict[str, Any]:
    return {"id": f"{prefix}-lip-{reply.pid}", "object": kind, "created": reply.created_s, "model": reply.model}


def _last(reply: Reply, head: dict[str, Any], outcome: Outcome) -> list[Event]:
    options = reply.body.get("stream_options")
    if not isinstance(options, dict) or not options.get("include_usage"):
        return [DONE]
    return [Event({**head, "choices": [], "usage": usage(outcome.count)}), DONE]
