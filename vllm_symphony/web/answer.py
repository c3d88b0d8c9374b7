"""An HTTP answer on its way (web/answer.py): knows how far it is, so that an error is told in the way that is left.

nothing sent yet       -> status and JSON
an event stream        -> a last event with the error, then its end
anything else          -> the connection breaks off: half an answer must not look like a whole one
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.types import Message, Send

from vllm_symphony.errors import SymphonyError
from vllm_symphony.web.error import error_body, error_response
from vllm_symphony.web.form import DONE, Event

STREAM = b"text/event-stream"


class Answer:
    """Of one request; `send` is what the app is given."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = self._has_ended = self._is_stream = False

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self._has_begun = True
            self._is_stream = any(k == b"content-type" and v.startswith(STREAM) for k, v in message["headers"])
        elif message["type"] == "http.response.body":
            self._has_ended = not message.get("more_body", False)
        await self._send(message)

    async def begin_stream(self, headers: dict[str, str]) -> None:
        """Say that an event stream follows."""
        given = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
        kind = [(b"content-type", STREAM + b"; charset=utf-8"), (b"cache-control", b"no-cache")]
        await self.send({"type": "http.response.start", "status": 200, "headers": [*kind, *given]})

    async def events(self, events: Iterable[Event]) -> None:
        """Events of the stream, in one message."""
        body = "".join(map(_written, events))
        if body:
            await self.send({"type": "http.response.body", "body": body.encode(), "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self.send({"type": "http.response.body", "body": b""})

    async def json(self, body: object, headers: dict[str, str]) -> None:
        """A whole answer."""
        data = json.dumps(body).encode()
        given = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
        fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await self.send({"type": "http.response.start", "status": 200, "headers": [*fixed, *given]})
        await self.send({"type": "http.response.body", "body": data})

    async def fail(self, error: SymphonyError) -> None:
        """Tell an error, as far as that can be done. Raises it where it cannot."""
        if not self._has_begun:
            await error_response(error)({"type": "http"}, _nothing, self.send)
        elif self._is_stream and not self._has_ended:
            await self.events((Event(error_body(error)), DONE))
            await self.end()
        elif not self._has_ended:
            raise error


def _written(event: Event) -> str:
    data = event.data if isinstance(event.data, str) else json.dumps(event.data)
    return f"event: {event.name}\ndata: {data}\n\n" if event.name else f"data: {data}\n\n"


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
