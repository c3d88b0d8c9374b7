"""Wait for the first of several things (lip/select.py).

    ready = await lip.select(orders, news, draft, timeout_s=5.0)
    if orders in ready:                                 a channel: `recv` does not wait now
        message = await orders.recv()
    if draft in ready:                                  a thread, a generate in flight, a task: it has ended
        print(draft.result)

Nothing is taken, started over or cancelled by it: channels are looked at by the call `poll`, which receives nothing; what is in
flight flies on. So a loop may select the same things again, and leave out what it is done with.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from vllm_symphony.abi.calls import Poll, PollResult, Sleep
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.lip import transport
from vllm_symphony.lip.channel import Channel, Room
from vllm_symphony.lip.generation import Generation
from vllm_symphony.lip.thread import Thread

S = TypeVar("S", bound=Channel | Room | Thread[Any] | Generation | asyncio.Future[Any])


async def select(*sources: S, timeout_s: float | None = None) -> list[S]:
    """Those that are ready, in the given order, as soon as one is; none when `timeout_s` is over.

    A channel is ready when `recv` would not wait, `channel.room` when `send` would not; a thread, a generate or a task when it has
    ended. Select looks at what is in flight: a coroutine is none, start it as a thread.

    Raises:
        InvalidArgument: there is nothing to wait for, or something that cannot be looked at.
        BadFile, AccessDenied: a channel is closed, or not open to receive.
    """
    if not sources:
        raise InvalidArgument("select needs something to wait for: sleep waits for time alone")
    for source in sources:
        if isinstance(source, Channel):
            await source.settle()
    flights = {id(source): _flight(source) for source in sources if not isinstance(source, Channel | Room)}
    receive = tuple(source.ch for source in sources if isinstance(source, Channel) and not source.has_kept)
    send = tuple(source.ch for source in sources if isinstance(source, Room))
    is_ready = any(flight.done() for flight in flights.values()) or any(
        isinstance(source, Channel) and source.has_kept for source in sources
    )
    polled = await _wait(receive, send, list(flights.values()), 0.0 if is_ready else timeout_s)

    def ready(source: S) -> bool:
        if isinstance(source, Channel):
            return source.has_kept or source.ch in polled.receive
        if isinstance(source, Room):
            return source.ch in polled.send
        return flights[id(source)].done()

    return [source for source in sources if ready(source)]


async def _wait(
    receive: tuple[int, ...], send: tuple[int, ...], flights: list[asyncio.Future[Any]], timeout_s: float | None
) -> PollResult:
    """Until a channel is ready, something in flight has ended, or the time is over; what the channels are then."""
    here = transport.session().transport
    clock: asyncio.Future[Any] | None = None
    if receive or send:
        clock = here.call("poll", Poll(receive, send, timeout_s), tid=transport.tid())
    elif timeout_s is not None:
        clock = here.call("sleep", Sleep(timeout_s), tid=transport.tid())
    waiting = [*flights, *([clock] if clock is not None else [])]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if clock is not None and clock.done():
            answer = clock.result()
            return answer if isinstance(answer, PollResult) else PollResult((), ())
        return PollResult((), ())
    finally:
        if clock is not None:
            clock.cancel()  # harmless when it is done; it has taken nothing


def _flight(source: object) -> asyncio.Future[Any]:
    """What ends when it does. Raises InvalidArgument for what has not begun."""
    if isinstance(source, asyncio.Future):
        return source
    if isinstance(source, Thread):
        return source.task
    if isinstance(source, Generation):
        return source.in_flight()
    raise InvalidArgument(
        f"select takes channels, threads, generates and tasks, not {type(source).__name__}: start a thread for it"
    )
