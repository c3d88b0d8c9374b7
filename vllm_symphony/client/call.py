"""One RPC, with typed errors and retries (client/call.py).

A failed RPC carries the server's errno in its trailer and becomes that error again; one without it never reached a server of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from vllm_symphony.client.retry import Retry, waiting_helps
from vllm_symphony.errors import Interrupted, SymphonyError, TimedOut, WouldBlock

LET_GO_S = 0.05
_GRPC_WATCHES = "_AioCall._handle_status_once_received"  # the task that ends when gRPC has let go of an RPC
T = TypeVar("T")


class ServerUnreachable(ConnectionError):
    """Nobody listens at `target`, or the connection broke."""

    def __init__(self, target: str, detail: str) -> None:
        super().__init__(f"no server at {target}: {detail}")
        self.target = target


class Caller:
    """Makes unary RPCs of one server, again where `retry` allows it. `was_reached`: it has answered before."""

    def __init__(self, target: str, retry: Retry) -> None:
        self.target = target
        self.retry = retry
        self.was_reached = False

    async def ask(
        self, method: Callable[..., Awaitable[T]], request: Any, timeout_s: float | None = None, *, patient: bool = False
    ) -> T:
        """The response. All tries together take `timeout_s` at most; the server ends what it does for the call then. `patient`: for
        a call that waits long, whose connection may well break: time counts, not tries.

        Raises: the server's error; TimedOut; ServerUnreachable when there is none to ask.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        waits, num_tries, give_up_at = self.retry.waits(), 0, 0.0
        while True:
            began = loop.time()
            try:
                with typed_errors(self.target):
                    response = await method(request, timeout=None if deadline is None else max(0.0, deadline - began))
            except (SymphonyError, ServerUnreachable) as e:
                now, num_tries = loop.time(), num_tries + 1
                if not give_up_at or now - began > self.retry.most_s:  # the first failure, or the first since it was connected
                    give_up_at, waits = now + self.retry.patience_s, self.retry.waits()
                wait_s = self.retry.wait_s(next(waits), e)
                is_over = now + wait_s >= give_up_at if patient else num_tries >= self.retry.tries
                if is_over or (deadline is not None and now + wait_s >= deadline) or not self._may_help(e):
                    raise
                await asyncio.sleep(wait_s)
            else:
                self.was_reached = True
                return response

    def _may_help(self, error: Exception) -> bool:
        """Trying again may help. A typed error is a server's word: it is there."""
        if isinstance(error, SymphonyError):
            self.was_reached = True
            return waiting_helps(error)
        return self.was_reached


def is_lost(error: Exception) -> bool:
    """It tells of a connection that broke, not of what was asked."""
    return isinstance(error, ServerUnreachable | Interrupted | WouldBlock) or type(error) is SymphonyError


async def each(target: str, call: AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """The responses of a streaming RPC; raises as `Caller.ask`. Closing it cancels the RPC."""
    try:
        with typed_errors(target):
            async for response in call:
                yield response
    finally:
        await let_go(call)


async def let_go(call: Any) -> None:
    """Cancel an RPC, if it has not ended, and wait until gRPC has heard so.

    grpc.aio (1.81) has one queue of events for all loops of a process: what comes after its own loop was closed breaks the reading
    of the queue in the next loop, whose calls then hang. To be removed when cancelling can be awaited.
    """
    if not hasattr(call, "cancel") or not call.cancel():
        return
    watching = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == _GRPC_WATCHES]
    if watching:
        await asyncio.wait(watching, timeout=LET_GO_S, return_when=asyncio.FIRST_COMPLETED)


@contextmanager
def typed_errors(target: str) -> Iterator[None]:
    """What gRPC raises inside becomes the error that it stands for."""
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
    if "Connection refused" in details or "No such file" in details:
        return "nobody listens there"
    return details.removeprefix("failed to connect to all addresses; last error: ")
