"""Locks of open files, with a lease (lip/lock.py).

    async with file.lock(lease_s=10) as lock:      others' writes are FileBusy; who asks for it waits
        await file.append(tokens)
        await lock.renew()                         10 s more

The lease frees what a program that hangs has locked. Its next write is StaleFile, once, so that it learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.calls import Flock, LeaseResult
from vllm_symphony.lip import transport

if TYPE_CHECKING:
    from vllm_symphony.lip.handle import Handle


class Lock:
    """A lock that is to be had: `async with` takes it and lets go of it, `await` takes it (and `file.unlock` lets go)."""

    def __init__(self, file: Handle, args: Flock) -> None:
        self._file = file
        self._args = args

    def __await__(self) -> Generator[Any, None, Lock]:
        return self._acquire().__await__()

    async def __aenter__(self) -> Lock:
        return await self._acquire()

    async def __aexit__(self, *_: object) -> None:
        if self._file.is_open:  # its lock went with it
            await self._file.unlock()

    async def renew(self, lease_s: float | None = None) -> float:
        """Begin the lease anew; gives its length. As `lock` when it had run out: somebody else may have the lock."""
        lease_s = self._args.lease_s if lease_s is None else lease_s
        result: LeaseResult = await transport.call("flock", replace(self._args, lease_s=lease_s))
        return result.lease_s

    async def _acquire(self) -> Lock:
        """Wait for it. Cancelled, it is given back: the grant may be on its way."""
        try:
            await transport.call("flock", self._args)
        except asyncio.CancelledError:
            transport.post("flock", Flock(self._file.fd, "unlock"))
            raise
        return self
