"""Gated waiting queues: vLLM schedules only what we admitted for this step (engine/gate.py).

    arrivals -> [ plain | calls ] --admit--> [ open ] -> vLLM's schedule() pops from `open` only
                       ^-------------- close() puts the rest back after the step

`__bool__`, `__len__`, `peek` and `pop` see the open part; iteration and removal see both, so vLLM's own code for aborts, pauses and
counting keeps working on requests that it cannot yet schedule. What is held is kept by side, each in order of arrival, so that a
step need not walk through one side's queue to find the other's. Nothing here but iteration takes longer when more is held.
Source: vllm/v1/core/sched/request_queue.py `RequestQueue` (0.32).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from vllm_symphony.engine.job import CLIENT

Held = OrderedDict[Request, None]


class Gate(RequestQueue):
    def __init__(self, arrived: Callable[[Request], None]) -> None:
        self.plain, self.calls = Held(), Held()  # what is held: plain requests, and calls on files
        self.open: deque[Request] = deque()
        self._first: list[Request] = []  # preempted in this step: vLLM takes them before all others
        self._arrived = arrived

    @property
    def num_held(self) -> int:
        return len(self.plain) + len(self.calls)

    def holds(self, request: Request) -> bool:
        return request in self._side(request)

    def hold(self, request: Request) -> None:
        """Behind what is held already."""
        self._side(request)[request] = None

    def admit(self, request: Request) -> None:
        """Let vLLM see a held request in this step."""
        self.take(request)
        self.open.append(request)

    def take(self, request: Request) -> None:
        """Remove a held request, to put it into another gate."""
        del self._side(request)[request]

    def put_back(self, request: Request) -> None:
        """It was admitted and does not begin in this step after all."""
        self.open.remove(request)
        self._hold_first(request)

    def close(self) -> None:
        """After the step: what vLLM did not take is held again, in front; before it what vLLM preempted."""
        if self.open:
            while self.open:
                self._hold_first(self.open.pop())
            for request in reversed(self._first):
                if self.holds(request):
                    self._hold_first(request)
        self._first.clear()

    def _side(self, request: Request) -> Held:
        return self.calls if request.client_index == CLIENT else self.plain

    def _hold_first(self, request: Request) -> None:
        side = self._side(request)
        side[request] = None
        side.move_to_end(request, last=False)

    # ---- vLLM's interface

    def add_request(self, request: Request) -> None:
        self.hold(request)
        self._arrived(request)

    def pop_request(self) -> Request:
        return self.open.popleft()

    def peek_request(self) -> Request:
        return self.open[0]

    def prepend_request(self, request: Request) -> None:
        """vLLM preempted it."""
        self._hold_first(request)
        self._first.insert(0, request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """vLLM skipped them in this step."""
        self.open.extendleft(requests)

    def remove_request(self, request: Request) -> None:
        self.remove_requests((request,))

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if self.holds(request):
                self.take(request)
            elif request in self.open:
                self.open.remove(request)

    def __bool__(self) -> bool:
        return bool(self.open)

    def __len__(self) -> int:
        return len(self.open)

    def __iter__(self) -> Iterator[Request]:
        yield from self.open
        yield from self.plain
        yield from self.calls
