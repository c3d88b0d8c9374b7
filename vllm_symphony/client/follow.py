"""The events of a process over connections that may break (client/follow.py).

    events 1 2 3 4 --lost-- wait -- attach from 5 -> 5 6 7 ...

The server keeps events by number and goes on at any that it still has; what it dropped comes as a `gap` event, so nothing is
missing without a word and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from typing import Any

from vllm_symphony.abi.types import ProcessEvent
from vllm_symphony.client.call import Caller, ServerUnreachable, each, is_lost
from vllm_symphony.client.retry import waiting_helps
from vllm_symphony.errors import SymphonyError
from vllm_symphony.proto.message import from_message


async def follow(caller: Caller, attach: Callable[[int], AsyncIterable[Any]], from_seq: int) -> AsyncGenerator[ProcessEvent, None]:
    """Events from number `from_seq` on; `attach` makes the RPC that streams them from a number on.

    Raises: the server's error; ServerUnreachable when it cannot be reached at first, or again in `retry.patience_s`.
    """
    loop = asyncio.get_running_loop()
    retry, next_seq, give_up_at = caller.retry, max(from_seq, 1), 0.0
    waits = retry.waits()
    while True:
        try:
            async with aclosing(each(caller.target, attach(next_seq))) as responses:
                async for response in responses:
                    caller.was_reached, give_up_at = True, 0.0
                    for event in response.events:
                        event = from_message(event)
                        if event.seq > next_seq and event.kind != "gap":
                            yield ProcessEvent(event.seq - 1, event.t_ns, "gap", str(event.seq - next_seq), event.pid)
                        next_seq = event.seq + 1
                        yield event
            return
        except (SymphonyError, ServerUnreachable) as e:
            if not (is_lost(e) and caller.was_reached) and not (isinstance(e, SymphonyError) and waiting_helps(e)):
                raise
            if not give_up_at:
                give_up_at, waits = loop.time() + retry.patience_s, retry.waits()
            wait_s = retry.wait_s(next(waits), e)
            if loop.time() + wait_s >= give_up_at:
                raise
            await asyncio.sleep(wait_s)
