"""A program's calls straight into the kernel (testing/transport.py): lip's Transport in one process, without a wire.

The kernel is called inside `call`, and its answer, often there already, comes by the loop: so a call is a checkpoint here as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.calls import Cancel
from vllm_symphony.abi.types import Pid
from vllm_symphony.errors import DeviceLost, SymphonyError

if TYPE_CHECKING:
    from vllm_symphony.testing.world import World


class MemoryFuture(asyncio.Future[Any]):
    """The answer of one call. Cancelling it cancels the call at the kernel."""

    def __init__(self, transport: MemoryTransport, call_id: int) -> None:
        super().__init__(loop=transport.world.loop)
        self._transport = transport
        self.call_id = call_id

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self._transport.post("cancel", Cancel(self.call_id))
        return True


class MemoryTransport:
    """Of one process."""

    def __init__(self, world: World, pid: Pid) -> None:
        self.world = world
        self.pid = pid
        self.is_closed = False
        self.is_held = False  # the program is stopped: what arrives for it waits
        self._late: list[Callable[[], None]] = []
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._last_id = 0
        self._calls: dict[int, MemoryFuture] = {}
        self._on_part: dict[int, Callable[[object], None]] = {}

    def call(self, op: str, args: object, *, tid: int = 0, on_part: Callable[[object], None] | None = None) -> asyncio.Future[Any]:
        call_id = self._last_id = self._last_id + 1
        future = MemoryFuture(self, call_id)
        if self.is_closed:
            future.set_exception(DeviceLost("the process has ended"))
            return future
        self._calls[call_id] = future
        if on_part is not None:
            self._on_part[call_id] = on_part
        self.world.enter(self.pid, call_id, tid, op, args)
        return future

    def post(self, op: str, args: object, *, tid: int = 0) -> None:
        if not self.is_closed:
            self.world.enter(self.pid, 0, tid, op, args)

    def answer(self, call_id: int, result: Any) -> None:
        """The call's end: a result or an error. Late answers of cancelled calls are dropped."""
        if self.is_held:
            self._late.append(lambda: self.answer(call_id, result))
            return
        self._on_part.pop(call_id, None)
        future = self._calls.pop(call_id, None)
        if future is None or future.done():
            return
        if isinstance(result, SymphonyError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def part(self, call_id: int, part: Any) -> None:
        if self.is_held:
            self._late.append(lambda: self.part(call_id, part))
            return
        on_part, future = self._on_part.get(call_id), self._calls.get(call_id)
        if on_part is not None and future is not None and not future.done():
            on_part(part)

    def hold(self) -> None:
        """STOP: the program hears nothing, so that it goes no further than it is."""
        self.is_held = True
        self._goes_on.clear()

    def release(self) -> None:
        """CONT."""
        self.is_held = False
        self._goes_on.set()
        late, self._late = self._late, []
        for arrive in late:
            arrive()

    async def may_go(self) -> None:
        """Until the program is not stopped."""
        await self._goes_on.wait()

    def close(self) -> None:
        """The process is gone: what it still asks is refused."""
        self.is_closed = True
        self._late.clear()
        self._goes_on.set()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(DeviceLost("the process has ended"))
                future.exception()  # nobody may be there to see it
        self._calls.clear()
        self._on_part.clear()
