"""Gated waiting queues: vLLM schedules only what we admitted for this step (engine/gate.py).

    arrivals -> [ held ] --admit--> [ open ] -> vLLM's schedule() pops from `open` only
                   ^-------------- close() puts the rest back after the step

`__bool__`, `__len__`, `peek` and `pop` see the open part; iteration and removal see both, so vLLM's own code for aborts, pauses and
counting keeps working on requests that it cannot yet schedule.
Source: vllm/v1/core/sched/request_queue.py `RequestQueue` (0.32).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request


class Gate(RequestQueue):
    def __init__(self, arrived: Callable[[Request], None]) -> None:
        self.held: dict[Request, None] = {}  # in order of arrival
        self.open: deque[Request] = deque()
        self._first: list[Request] = []  # preempted in this step: vLLM takes them before all others
        self._arrived = arrived

    def admit(self, request: Request) -> None:
        """Let vLLM see a held request in this step."""
        del self.held[request]
        self.open.append(request)

    def take(self, request: Request) -> None:
        """Remove a held request, to put it into another gate."""
        del self.held[request]

    def put_back(self, request: Request) -> None:
        """It was admitted and does not begin in this step after all."""
        self.open.remove(request)
        self.held = {request: None, **self.held}

    def close(self) -> None:
        """After the step: what vLLM did not take is held again, in front; before it what vLLM preempted."""
        if self.open:
            self.held = dict.fromkeys([*[r for r in self._first if r in self.held], *self.open, *self.held])
            self.open.clear()
        self._first.clear()

    # ---- vLLM's interface

    def add_request(self, request: Request) -> None:
        self.held[request] = None
        self._arrived(request)

    def pop_request(self) -> Request:
        return self.open.popleft()

    def peek_request(self) -> Request:
        return self.open[0]

    def prepend_request(self, request: Request) -> None:
        """vLLM preempted it."""
        self.held = dict.fromkeys([request, *self.held])
        self._first.insert(0, request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """vLLM skipped them in this step."""
        self.open.extendleft(requests)

    def remove_request(self, request: Request) -> None:
        self.remove_requests((request,))

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if request in self.held:
                del self.held[request]
            elif request in self.open:
                self.open.remove(request)

    def __bool__(self) -> bool:
        return bool(self.open)

    def __len__(self) -> int:
        return len(self.open)

    def __iter__(self) -> Iterator[Request]:
        yield from self.open
        yield from self.held
