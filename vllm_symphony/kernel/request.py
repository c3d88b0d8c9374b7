"""Requests that may be repeated: each happens once (kernel/request.py).

    claim(id) -> new ...... settle(id, result)      a retry gets the kept result
                    \\..... forget(id)              it failed and changed nothing: a retry is a new attempt

Bounded: the oldest results are forgotten. A retry that comes while the first one still runs is told to come again.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from vllm_symphony.errors import InvalidArgument, WouldBlock

RETRY_AFTER_S = 0.1


class Requests:
    """What was asked under which `request_id`, of one process or one principal."""

    __slots__ = ("_bodies", "_capacity", "_results")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._bodies: dict[str, bytes] = {}  # of all that is known, oldest first
        self._results: dict[str, Any] = {}  # of those that are done

    def __len__(self) -> int:
        return len(self._bodies)

    def claim(self, request_id: str, op: str, args: Any) -> Any | None:
        """Begin it, None; or give the result of the first time.

        Raises:
            InvalidArgument: the id stood for another call.
            WouldBlock: the first one still runs, or too many do.
        """
        body = blake2b(f"{op}:{args!r}".encode(errors="surrogatepass"), digest_size=16).digest()
        known = self._bodies.get(request_id)
        if known is None:
            self._make_room()
            self._bodies[request_id] = body
            return None
        if known != body:
            raise InvalidArgument(f"request_id {request_id} was used for another call", request_id=request_id)
        if request_id not in self._results:
            raise WouldBlock(f"the first call with request_id {request_id} still runs", retry_after_s=RETRY_AFTER_S)
        return self._results[request_id]

    def settle(self, request_id: str, result: Any) -> None:
        """It succeeded."""
        self._results[request_id] = result

    def forget(self, request_id: str) -> None:
        """It failed."""
        del self._bodies[request_id]

    def clear(self) -> None:
        """Nobody will retry."""
        self._bodies.clear()
        self._results.clear()

    def _make_room(self) -> None:
        if len(self._bodies) < self._capacity:
            return
        oldest = next((request_id for request_id in self._bodies if request_id in self._results), None)
        if oldest is None:
            raise WouldBlock(f"{len(self._bodies)} requests are in flight, the most at once", retry_after_s=RETRY_AFTER_S)
        del self._bodies[oldest], self._results[oldest]
