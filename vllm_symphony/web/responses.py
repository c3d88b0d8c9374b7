"""Responses (web/responses.py): one message with one part of text, and the events around it, numbered.

    created  in_progress  output_item.added  content_part.added  output_text.delta ...  output_text.done  content_part.done
    output_item.done  completed | incomplete

Source: vllm/entrypoints/openai/responses/protocol.py, streaming_events.py (0.32).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.web.form import LENGTH, Count, Event, Outcome, Reply, Stream


class Responses:
    """POST /v1/responses."""

    refused: tuple[str, ...] = (
        "tools",
        "text",
        "top_logprobs",
        "background",
        "previous_response_id",
        "structured_outputs",
        "conversation",
        "prompt",
    )

    def messages(self, body: Mapping[str, Any]) -> list[Any]:
        asked = body.get("input")
        if isinstance(asked, str):
            asked = [{"role": "user", "content": asked}]
        if not isinstance(asked, list) or not asked or not all(isinstance(item, dict) for item in asked):
            raise InvalidArgument("input must be a text or a list of items", param="input")
        first = body.get("instructions")
        return [*([{"role": "system", "content": first}] if isinstance(first, str) else []), *asked]

    def whole(self, reply: Reply, text: str, outcome: Outcome) -> dict[str, Any]:
        return _response(reply, text, outcome)

    def stream(self, reply: Reply) -> Stream:
        return _ResponseStream(reply)


class _ResponseStream:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._num = 0
        self._place = {"item_id": _item_id(reply), "output_index": 0, "content_index": 0}

    def opening(self) -> list[Event]:
        begun = _response(self._reply, None, None)
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=_item(self._reply, None, "in_progress")),
            self._event("response.content_part.added", **self._place, part=_part("")),
        ]

    def delta(self, text: str) -> Event:
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def closing(self, text: str, outcome: Outcome) -> list[Event]:
        done = _response(self._reply, text, outcome)
        return [
            self._event("response.output_text.done", **self._place, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=_part(text)),
            self._event("response.output_item.done", output_index=0, item=done["output"][0]),
            self._event(f"response.{done['status']}", response=done),
        ]

    def _event(self, name: str, **data: Any) -> Event:
        self._num += 1
        return Event({"type": name, "sequence_number": self._num - 1, **data}, name)


def _response(reply: Reply, text: str | None, outcome: Outcome | None) -> dict[str, Any]:
    """The whole object; without an outcome as it is while the program runs."""
    status = "in_progress" if outcome is None else "incomplete" if outcome.finish == LENGTH else "completed"
    return {
        "id": f"resp_lip_{reply.pid}",
        "object": "response",
        "created_at": reply.created_s,
        "model": reply.model,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": reply.body.get("instructions"),
        "metadata": reply.body.get("metadata"),
        "output": [] if text is None else [_item(reply, text, status)],
        "parallel_tool_calls": True,
        "temperature": reply.body.get("temperature"),
        "tool_choice": "auto",
        "tools": [],
        "top_p": reply.body.get("top_p"),
        "usage": None if outcome is None else _usage(outcome.count),
    }


def _item(reply: Reply, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {"id": _item_id(reply), "type": "message", "role": "assistant", "status": status, "content": content}


def _item_id(reply: Reply) -> str:
    return f"msg_lip_{reply.pid}"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}


def _usage(count: Count) -> dict[str, Any]:
    return {
        "input_tokens": count.num_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": count.num_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": count.num_in + count.num_out,
    }
