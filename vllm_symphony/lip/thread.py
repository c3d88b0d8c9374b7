"""Threads of a program (lip/thread.py): asyncio tasks that the kernel knows by id.

    async with lip.group() as g:
        drafts = [g.start(answer, fork) for fork in forks]
    print([d.result for d in drafts])

A block ends when all its threads ended; the first failure cancels the others. One failure is raised as it is; several that
failed at once are an ExceptionGroup. Source: trio's nurseries, asyncio.TaskGroup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import copy_context
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

from vllm_symphony.abi.calls import ThreadEnd, ThreadStart
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.lip import transport

T = TypeVar("T")
P = ParamSpec("P")


class Thread(Generic[T]):
    """One running function of a group. `await thread` waits for its value inside the block."""

    def __init__(self, tid: int, task: asyncio.Task[T]) -> None:
        self.tid = tid
        self._task = task

    @property
    def task(self) -> asyncio.Task[T]:
        """What runs it, for `select`."""
        return self._task

    @property
    def done(self) -> bool:
        return self._task.done()

    @property
    def result(self) -> T:
        """What the function returned. InvalidArgument while it runs; raises what it raised."""
        if not self._task.done():
            raise InvalidArgument(f"thread {self.tid} still runs: read its result after the group's block, or await it")
        return self._task.result()

    def cancel(self) -> None:
        """End this thread alone, at its current or next system call; the group goes on."""
        self._task.cancel()

    def __await__(self) -> Generator[Any, None, T]:
        return self._task.__await__()


class Group:
    """Threads that live and end together; see `group`."""

    def __init__(self) -> None:
        self._tasks = asyncio.TaskGroup()

    def start(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Thread[T]:
        """Run `fn(*args, **kwargs)` beside the caller: any function whose value can be awaited."""
        session, parent = transport.session(), transport.tid()
        tid = session.next_tid()

        async def body() -> T:
            return await fn(*args, **kwargs)

        context = copy_context()
        context.run(transport.set_tid, tid)
        task = self._tasks.create_task(body(), context=context)
        name = getattr(fn, "__name__", type(fn).__name__)
        session.transport.post("thread_start", ThreadStart(tid, name), tid=parent)
        task.add_done_callback(lambda _: session.transport.post("thread_end", ThreadEnd(tid), tid=tid))
        return Thread(tid, task)

    async def __aenter__(self) -> Group:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as failures:
            if len(failures.exceptions) > 1:
                raise
            only = failures.exceptions[0]
            if only is error:
                return  # the block's own error goes on by itself
            raise only from only.__cause__


def group() -> Group:
    """Start threads inside `async with lip.group() as g`; the block waits for them."""
    return Group()
