"""Links and copies by two names (edge/naming.py).

    link /a /b   =   open /a -> link /b -> close
    copy /a /b   =   open /a -> fork -> chmod -> link /b -> close both

The kernel names open files only, so the edge opens them in its own process, each for the principal that asks: nobody else can use
that fd. Once begun it goes on to its end, whoever hangs up: else a caller would not know whether the name is there, and an fd would
be lost. The kernel keeps the results of single calls for retries; those of these are kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vllm_symphony.abi.calls import Chmod, FdArgs, FdResult, Link, Open, Stat
from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.errors import InvalidArgument, WouldBlock

MAX_KEPT = 1024
RETRY_AFTER_S = 0.1
_PERMISSIONS = 0o777


@dataclass(frozen=True, slots=True)
class Names:
    """What to do: `src` (or a copy of it) gets the name `dst`. `replace`: what has the name loses it."""

    src: str
    dst: str
    replace: bool = False


Act = Callable[[Names, Credentials], Awaitable[FdResult]]


class Naming:
    """Of one edge. A retry with the same `request_id` gets the first one's result, while that is among the last `MAX_KEPT`."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel
        self._asked: dict[tuple[str, str], tuple[str, Names]] = {}  # by principal and request
        self._made: dict[tuple[str, str], FdResult] = {}  # of those that are done, oldest first

    async def link(self, names: Names, cred: Credentials, request_id: str = "") -> FdResult:
        """Give a file a further name. The fd that comes back is closed.

        Raises:
            InvalidArgument: the `request_id` stood for other names.
            WouldBlock: the first one with it still runs.
            FileExists, and what `open` and `link` raise.
        """
        return await self._once(self._link, names, cred, request_id)

    async def copy(self, names: Names, cred: Credentials, request_id: str = "") -> FdResult:
        """Make a file that shares all pages of another. Raises as `link`, and what `fork` raises."""
        return await self._once(self._copy, names, cred, request_id)

    async def _once(self, act: Act, names: Names, cred: Credentials, request_id: str) -> FdResult:
        if not request_id:
            return await asyncio.shield(act(names, cred))
        key, asked = (cred.principal, request_id), (act.__name__, names)
        if key not in self._asked:
            return await asyncio.shield(self._first(key, act, names, cred))
        if self._asked[key] != asked:
            raise InvalidArgument(f"request_id {request_id} was used for another call", request_id=request_id)
        if key not in self._made:
            raise WouldBlock(f"the first call with request_id {request_id} still runs", retry_after_s=RETRY_AFTER_S)
        return self._made[key]

    async def _first(self, key: tuple[str, str], act: Act, names: Names, cred: Credentials) -> FdResult:
        self._asked[key] = (act.__name__, names)
        try:
            made = await act(names, cred)
        except BaseException:
            del self._asked[key]
            raise
        if len(self._made) >= MAX_KEPT:
            oldest = next(iter(self._made))
            del self._asked[oldest], self._made[oldest]
        self._made[key] = made
        return made

    async def _link(self, names: Names, cred: Credentials) -> FdResult:
        async with self._opened("open", Open(names.src), cred) as file:
            await self._kernel.call("link", Link(file.fd, names.dst, names.replace), cred)
            return file

    async def _copy(self, names: Names, cred: Credentials) -> FdResult:
        async with self._opened("open", Open(names.src), cred) as file:
            mode = (await self._kernel.call("stat", Stat(file.fd), cred)).file.mode
            async with self._opened("fork", FdArgs(file.fd), cred) as copy:
                await self._kernel.call("chmod", Chmod(mode & _PERMISSIONS, copy.fd), cred)
                await self._kernel.call("link", Link(copy.fd, names.dst, names.replace), cred)
                return copy

    @asynccontextmanager
    async def _opened(self, op: str, args: object, cred: Credentials) -> AsyncIterator[FdResult]:
        file: FdResult = await self._kernel.call(op, args, cred)
        try:
            yield file
        finally:
            self._kernel.post("close", FdArgs(file.fd), cred)
