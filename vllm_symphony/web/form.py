"""The three ways to ask for text (web/form.py): what a request says, and how a program's output looks in each answer.

    /v1/chat/completions   messages               chat.py
    /v1/completions        prompt                 chat.py
    /v1/responses          input, instructions    responses.py

The fields are those of vLLM's own answers, so that a client cannot tell whether a model or a program is behind a name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllm_symphony.errors import InvalidArgument

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens that a program and all below it have put in, and got."""

    num_in: int
    num_out: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program has ended. `finish`: STOP, or LENGTH where a limit was used up."""

    finish: str
    count: Count


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer is about: its model, the program's pid, the moment it began, and the request."""

    model: str
    pid: int
    body: Mapping[str, Any]
    created_s: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, slots=True)
class Event:
    """Of a stream: data, and in /v1/responses a name."""

    data: Mapping[str, Any] | str
    name: str | None = None


DONE = Event("[DONE]")


class Stream(Protocol):
    """An answer in pieces."""

    def opening(self) -> list[Event]:
        """Before the first text."""

    def delta(self, text: str) -> Event:
        """A piece of text."""

    def closing(self, text: str, outcome: Outcome) -> list[Event]:
        """After the last text; `text` is all of it."""


class Form(Protocol):
    """One of the three. `refused`: parameters of a request that count, and that only a program which declares them can heed."""

    refused: tuple[str, ...]

    def messages(self, body: Mapping[str, Any]) -> list[Any]:
        """The request as chat messages. Raises InvalidArgument."""

    def whole(self, reply: Reply, text: str, outcome: Outcome) -> dict[str, Any]:
        """The answer in one piece."""

    def stream(self, reply: Reply) -> Stream:
        """The answer in pieces."""


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or parts. Raises InvalidArgument for parts that are no text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(texts) < len(parts):
        raise InvalidArgument("a program takes text; give it anything else as an argument", param="messages")
    return "".join(texts)
