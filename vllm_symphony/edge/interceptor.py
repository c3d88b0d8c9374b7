"""Concerns around RPCs (edge/interceptor.py).

    access log [ errors [ the RPC ] ]

A concern is an async context manager made for each RPC; what it does before, after and on an exception holds for all four kinds of
handlers. Wrapped streams write to the context themselves, so a cancelled RPC ends its generator at once, not when it is collected.
Health and reflection pass by.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from contextvars import ContextVar
from typing import Any

import grpc

Context = Any  # grpc.aio.ServicerContext[request, response]
Concern = Callable[[str, Context], AbstractAsyncContextManager[None]]
OURS = "/symphony."
REQUEST: ContextVar[Any] = ContextVar("REQUEST", default=None)  # for concerns: what the RPC was given, or the stream of it


class Around(grpc.aio.ServerInterceptor):
    """Puts one concern around each RPC of ours."""

    def __init__(self, concern: Concern) -> None:
        self._concern = concern

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OURS):
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + "_" + ("stream" if handler.response_streaming else "unary")
        wrap = self._streaming if handler.response_streaming else self._single
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrap(method, getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)

    def _single(self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def single(request: Any, context: Context) -> Any:
            REQUEST.set(request)
            async with self._concern(method, context):
                return await behaviour(request, context)

        return single

    def _streaming(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Awaitable[None]]:
        async def streaming(request: Any, context: Context) -> None:
            REQUEST.set(request)
            async with self._concern(method, context):
                made = behaviour(request, context)
                if isinstance(made, AsyncGenerator):
                    async with aclosing(made):
                        async for response in made:
                            await context.write(response)
                else:
                    await made

        return streaming
