"""Streams that only look (edge/looking.py): attach, strace, watch. They end when the server stops: nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from vllm_symphony.errors import DeviceLost

T = TypeVar("T")


class Looks:
    """Those of one server."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()  # that wait for something to follow, for ever maybe
        self._is_stopping = False

    def end(self) -> None:
        """The server stops."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()

    async def over(self, parts: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The parts of a stream, until `end`. It is cancelled only where it waits for the next part: a task that gRPC waits in
        would end without a word to the client."""
        task = asyncio.current_task()
        assert task is not None
        async with aclosing(parts):
            while not self._is_stopping:
                self._tasks.add(task)
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if not self._is_stopping:
                        raise
                    task.uncancel()
                    break
                finally:
                    self._tasks.discard(task)
                yield part
        raise DeviceLost("the server is stopping")
