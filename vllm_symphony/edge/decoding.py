"""Requests that are no message (edge/decoding.py).

    bytes --from the caller--> message, or Malformed --to the RPC--> EINVAL, inside the concerns

gRPC reads a request before it calls anybody, and answers UNKNOWN with a traceback in the log when that fails. Here reading never
fails: what is no message goes on as `Malformed`, and the RPC ends with a typed error as for any other bad argument. The innermost
interceptor, so that `errors` and the access log are around it. Health and reflection pass by, as there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from vllm_symphony.edge.interceptor import OURS
from vllm_symphony.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Malformed:
    """What stands for a request that could not be read."""

    why: str


class Decoding(grpc.aio.ServerInterceptor):
    """Reads requests."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(OURS):
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + "_" + ("stream" if handler.response_streaming else "unary")
        behaviour = getattr(handler, kind)
        wrapped = _of_stream(behaviour) if handler.request_streaming else _of_one(behaviour)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrapped, _lenient(handler.request_deserializer), handler.response_serializer)


def _lenient(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def reading(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError as e:
            return Malformed(f"{len(data)} bytes are no message: {e}")

    return reading


def _checked(request: Any) -> Any:
    if isinstance(request, Malformed):
        raise InvalidArgument(request.why)
    return request


def _of_one(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The behaviour's own coroutine or generator comes back, as before."""
    return lambda request, context: behaviour(_checked(request), context)


def _of_stream(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield _checked(request)

    return lambda requests, context: behaviour(checked(requests), context)
