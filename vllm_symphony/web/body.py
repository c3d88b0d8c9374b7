"""How long, and how large, a request's body may be (web/body.py): the outermost middleware, of vLLM's routes too.

    Content-Length above the limit, or more than it came      413 EFBIG
    slower than MIN_BYTES_PER_S after the first PATIENCE_S    408 ETIMEDOUT

vLLM and its server read a body however long it takes and however much it is. Here what is too much is answered at once and the
connection closed; the app behind is told that its client has hung up, and what it still says is not sent. A body that is whole when
it is first asked for, as nearly all are, costs one look.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_symphony.errors import ContextTooLong, SymphonyError, TimedOut
from vllm_symphony.web.error import error_response

MAX_BODY_BYTES = 128 << 20  # pictures and sounds come in bodies
PATIENCE_S = 20.0
MIN_BYTES_PER_S = 1024


class Bodies:
    """Middleware of one server."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        patience_s: float = PATIENCE_S,
        min_bytes_per_s: float = MIN_BYTES_PER_S,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._min_bytes_per_s = min_bytes_per_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope; what is no HTTP request, or has no body, passes."""
        announced = _announced(scope) if scope["type"] == "http" else 0
        if announced == 0:
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive, send)
        if announced is not None and announced > self._max_bytes:
            await body.refuse(413, self.too_large(announced))
            return
        await self._app(scope, body.receive, body.send)

    def too_large(self, num_bytes: int) -> SymphonyError:
        return ContextTooLong(f"the body has {num_bytes} bytes or more; at most {self._max_bytes} are read", limit=self._max_bytes)

    async def piece(self, receive: Receive, num_bytes: int, began_s: float) -> Message:
        """The next one. Raises TimedOut."""
        try:
            async with asyncio.timeout_at(began_s + self._patience_s + num_bytes / self._min_bytes_per_s):
                return await receive()
        except TimeoutError:
            raise TimedOut(f"{num_bytes} bytes of the body came, and then nothing for too long") from None

    def check(self, num_bytes: int) -> None:
        """Raises ContextTooLong."""
        if num_bytes > self._max_bytes:
            raise self.too_large(num_bytes)


class _Body:
    """Of one request that has one."""

    def __init__(self, bodies: Bodies, receive: Receive, send: Send) -> None:
        self._bodies = bodies
        self._receive = receive
        self._send = send
        self._began_s = asyncio.get_running_loop().time()
        self._num_bytes = 0
        self._is_whole = self._is_refused = self._is_answered = False

    async def receive(self) -> Message:
        """What the app gets."""
        if self._is_refused:
            return {"type": "http.disconnect"}
        if self._is_whole:
            return await self._receive()
        try:
            message = await self._bodies.piece(self._receive, self._num_bytes, self._began_s)
            self._num_bytes += len(message.get("body", b""))
            self._bodies.check(self._num_bytes)
        except TimedOut as e:
            await self.refuse(408, e)
            return {"type": "http.disconnect"}
        except ContextTooLong as e:
            await self.refuse(413, e)
            return {"type": "http.disconnect"}
        self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """What the app says: nothing any more when we have answered."""
        if not self._is_refused:
            self._is_answered = True
            await self._send(message)

    async def refuse(self, status: int, error: SymphonyError) -> None:
        """Answer, unless the app has begun to, and close the connection."""
        self._is_refused = True
        if self._is_answered:
            return
        response = error_response(error)
        response.status_code = status
        response.headers["connection"] = "close"
        await response({"type": "http"}, self._receive, self._send)


def _announced(scope: Scope) -> int | None:
    """How long the body says it is; None: it does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
        if name == b"transfer-encoding":
            return None
    return 0
