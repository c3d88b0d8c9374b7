"""The concerns of the edge: counts, errors, the ABI's version and the access log (edge/concern.py).

A deadline or a cancel needs none: gRPC cancels the task, and the kernel link cancels the call that the task awaits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc

from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.edge.credentials import CALLER
from vllm_symphony.edge.meter import DOORS
from vllm_symphony.errors import NotSupported, SymphonyError
from vllm_symphony.proto.status import ABI_HEADER, TRAILER, to_status

_access = logging.getLogger("symphony.access")
_log = logging.getLogger("symphony.edge")


def counted(streams: Collection[str]) -> Callable[[str, Any], AbstractAsyncContextManager[None]]:
    """Each RPC, by its status; `streams` are the methods whose length says nothing."""

    @asynccontextmanager
    async def around(method: str, context: Any) -> AsyncIterator[None]:
        DOORS.began("grpc")
        began, code = time.perf_counter(), "OK"
        try:
            yield
        except BaseException as e:
            code = _status_of(context, e)
            raise
        finally:
            DOORS.ended("grpc", code, None if method in streams else time.perf_counter() - began)

    return around


@asynccontextmanager
async def errors(method: str, context: Any) -> AsyncIterator[None]:
    """Typed errors become a google.rpc.Status; a peer that is gone is a cancel; anything else is our fault: logged with its
    traceback, EIO to the caller."""
    try:
        yield
    except SymphonyError as e:
        await _abort(context, e)
    except (asyncio.CancelledError, grpc.aio.AbortError):
        raise
    except grpc.aio.InternalError:  # of a write that was under way when the peer vanished: a cancel that came too late
        raise asyncio.CancelledError from None
    except Exception as e:  # noqa: BLE001 - the RPC's boundary
        _log.exception("%s failed", method)
        await _abort(context, SymphonyError(f"internal error: {type(e).__name__}"))


@asynccontextmanager
async def access_log(method: str, context: Any) -> AsyncIterator[None]:
    """One line for each RPC: method, status, duration, caller and where it came from."""
    began, outcome = time.monotonic(), "OK"
    try:
        yield
    except BaseException as e:
        outcome = _status_of(context, e)
        raise
    finally:
        who, took_ms = CALLER.get(), (time.monotonic() - began) * 1e3
        name = who.principal if who else "-"
        said = {"method": method.rpartition(".")[2], "code": outcome, "seconds": round(took_ms / 1e3, 6), "principal": name}
        _access.info("%s %s %.1f ms %s %s", said["method"], outcome, took_ms, name, context.peer(), extra=said)


@asynccontextmanager
async def same_abi(method: str, context: Any) -> AsyncIterator[None]:
    """A hello without a round trip: who says by metadata which ABI it was written for is told when that is not ours."""
    for key, value in context.invocation_metadata() or ():
        if key == ABI_HEADER and str(value).partition(".")[0] != str(ABI_MAJOR):
            shown = str(value)[:64]
            raise NotSupported(f"the caller speaks ABI {shown}, this server {ABI_MAJOR}.{ABI_MINOR}", abi_major=ABI_MAJOR)
    yield


def peer_minor(context: Any) -> int:
    """The minor version that the caller was written for; ours where it does not say."""
    for key, value in context.invocation_metadata() or ():
        minor = str(value).partition(".")[2]
        if key == ABI_HEADER and minor.isdecimal():
            return int(minor[:9])
    return ABI_MINOR


def _status_of(context: Any, error: BaseException) -> str:
    """The name of the status that an RPC ends with, because of the error."""
    code = context.code()
    return "CANCELLED" if isinstance(error, asyncio.CancelledError) else getattr(code, "name", str(code))


async def _abort(context: Any, error: SymphonyError) -> None:
    code = grpc.StatusCode[error.grpc_code]
    await context.abort(code, error.message, ((TRAILER, to_status(error).SerializeToString()),))
