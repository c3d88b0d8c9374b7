"""What happens to files, as it happens (lip/watch.py).

    async with lip.watch("/kb") as changes:        from here on nothing is missed
        async for change in changes:               FileEvent: kind, path, ...
            print(change.kind, change.path)

The kernel keeps what a program has not read, up to a bound; what was lost is counted in `missing`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from vllm_symphony.abi.calls import Watch as WatchCall
from vllm_symphony.abi.calls import WatchPart
from vllm_symphony.abi.types import FileEvent
from vllm_symphony.lip import transport


class Watch:
    """Changes of files, in order, without end; made by `watch`. One reader."""

    def __init__(self, args: WatchCall) -> None:
        self.missing = 0  # events that were lost so far, because nobody read them
        self._args = args
        self._parts: deque[WatchPart] = deque()
        self._events: deque[FileEvent] = deque()  # of parts that were looked at
        self._news = asyncio.Event()
        self._reply: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Watch:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[FileEvent]:
        self._start()
        return self

    async def __anext__(self) -> FileEvent:
        """The next change. Raises NoSuchFile, NotDirectory, AccessDenied: of the path that is watched."""
        reply = self._start()
        while not self._events:
            if self._parts:
                part = self._parts.popleft()
                self.missing += part.missing
                self._events.extend(part.events)
                continue
            if reply.done():
                reply.result()  # raises why it ended
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()

    def close(self) -> None:
        """End it. Closing twice is no error."""
        if self._reply is not None:
            self._reply.cancel()

    def __del__(self) -> None:
        self.close()  # a loop that was left by `break`: nobody can see the rest

    def _start(self) -> asyncio.Future[Any]:
        if self._reply is None:
            parts, news = self._parts, self._news  # not self: a watch that nobody holds must end (`__del__`)

            def take(part: object) -> None:
                assert isinstance(part, WatchPart)
                parts.append(part)
                news.set()

            self._reply = transport.session().transport.call("watch", self._args, tid=transport.tid(), on_part=take)
            self._reply.add_done_callback(lambda _: news.set())
        return self._reply


def watch(path: str = "/", *, recursive: bool = True) -> Watch:
    """What happens to the file, or in the directory (`recursive`: and below it): of what the caller may see."""
    return Watch(WatchCall(path, recursive))
