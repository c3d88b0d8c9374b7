"""One RPC, with typed errors (client/call.py).

A failed RPC carries the server's errno in its trailer and becomes that error again; one without it never reached a server of ours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from vllm_symphony.errors import Interrupted, SymphonyError, TimedOut

T = TypeVar("T")


class ServerUnreachable(ConnectionError):
    """Nobody listens at `target`, or the connection broke."""

    def __init__(self, target: str, detail: str) -> None:
        super().__init__(f"no server at {target}: {detail}")
        self.target = target


async def once(target: str, call: Awaitable[T]) -> T:
    """The response of a unary RPC.

    Raises: the server's error; ServerUnreachable when there is none to ask.
    """
    with _typed_errors(target):
        return await call


async def each(target: str, call: AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """The responses of a streaming RPC; raises as `once`. Closing it cancels the RPC."""
    try:
        with _typed_errors(target):
            async for response in call:
                yield response
    finally:
        getattr(call, "cancel", bool)()


@contextmanager
def _typed_errors(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as e:
        raise _typed(target, e) from None


def _typed(target: str, error: grpc.aio.AioRpcError) -> Exception:
    from vllm_symphony.proto.status import from_trailer  # google.rpc: loaded only when something failed

    trailer: Any = error.trailing_metadata()
    if ours := from_trailer(trailer):
        return ours
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServerUnreachable(target, _why_unreachable(details))
    if code is grpc.StatusCode.CANCELLED:
        return Interrupted(details or "the call was cancelled")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(details or "the call's deadline passed")
    return SymphonyError(f"{code.name.lower()}: {details}")


def _why_unreachable(details: str) -> str:
    """gRPC's "failed to connect to all addresses; last error: UNKNOWN: ipv4:...: ..." in fewer words."""
    if "andshake failed" in details:
        return f"TLS failed: {details.rpartition('andshake failed')[2].lstrip(': ')}"
    if "failed to connect" in details and "Socket closed" in details:
        return (
            "it hangs up at once: does it speak TLS (grpcs://HOST:PORT, --tls-ca), does it want a client certificate (--tls-cert)?"
        )
    return "nobody listens there" if "connect" in details else details
