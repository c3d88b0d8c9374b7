"""An event loop in a thread of its own, for callers that have none (client/portal.py).

    caller's thread:  call(coroutine) ----> background thread: runs it
                      waits            <---- result or error

A caller that is interrupted (Ctrl-C) cancels what it waits for, and waits until it is over. The thread ends with `close`, at the
latest as the interpreter exits.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

CLEAN_UP_S = 10.0  # that what was cancelled may take
T = TypeVar("T")
_END: Any = object()


class Portal:
    """One loop and its thread. `on_close` runs on it before it ends."""

    def __init__(self, on_close: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._on_close = on_close
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="symphony client", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop; its result, or what it raises. RuntimeError on the loop's own thread, and after `close`."""
        if threading.current_thread() is self._thread or self._loop.is_closed():
            work.close()
            raise RuntimeError("the synchronous client was called from its own loop, or after it was closed")
        is_over = threading.Event()

        async def working() -> T:
            try:
                return await work
            finally:
                is_over.set()

        future = asyncio.run_coroutine_threadsafe(working(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not is_over.is_set():  # it is the caller who was interrupted
                future.cancel()
                is_over.wait(CLEAN_UP_S)
            raise

    def do(self, work: Callable[[], T]) -> T:
        """Run a function on the loop's thread."""

        async def once() -> T:
            return work()

        return self.call(once())

    def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Generator[T, None, None]:
        """What an asynchronous generator gives, one by one; closing this closes it."""
        items = self.do(make)

        async def following() -> T:
            return await anext(items, _END)

        try:
            while (item := self.call(following())) is not _END:
                yield item
        finally:
            if threading.current_thread() is self._thread:  # collected there, unclosed
                self._loop.call_soon(asyncio.ensure_future, _close(items))
            elif not self._loop.is_closed():
                self.call(_close(items))

    def close(self) -> None:
        """Run `on_close`, then end the loop and its thread. Idempotent."""
        atexit.unregister(self.close)
        if self._loop.is_closed():
            return
        try:
            self.call(self._on_close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())


async def _close(items: AsyncGenerator[Any, None]) -> None:
    with suppress(RuntimeError):  # a reader that was interrupted holds it
        await items.aclose()
