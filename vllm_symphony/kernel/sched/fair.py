"""Virtual counters: who has had how much (kernel/sched/fair.py).

Of those that want something the one with the smallest counter goes first, and pays what it gets, divided by its weight. Who comes
back after a rest is *lifted* to the smallest counter of those that wait (or that the last of them left with), so nobody saves up
credit while it wants nothing, and nobody who does not rest is passed over.

With unit weights, counters of clients that wait differ by at most U = max(w_in L_in, w_out M) (L_in: the longest prompt, M:
tokens that run at once), so of two clients that wait all along neither gets more than 2 U above the other.
Source: Sheng et al., "Fairness in serving large language models" (VTC, OSDI 2024, arXiv 2401.00588), algorithm 2, theorem 4.4.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from vllm_symphony.kernel.sched.ranking import Ranking

Client = TypeVar("Client", bound=Hashable)


class Counters(Generic[Client]):
    """`waiting`: clients with something to take now, first the one that has had least."""

    def __init__(self) -> None:
        self.waiting: Ranking[Client] = Ranking()
        self._of: dict[Client, tuple[float, int]] = {}
        self._weight: dict[Client, float] = {}
        self._left_at = 0.0
        self._num = 0

    def __getitem__(self, client: Client) -> float:
        return self._of[client][0] if client in self._of else 0.0

    def weigh(self, client: Client, weight: float) -> None:
        """What it pays from here on is divided by this."""
        self._weight[client] = weight

    def enter(self, client: Client, *, rested: bool = True) -> None:
        """It waits from here on. `rested`: it wanted nothing before."""
        if client in self.waiting:
            return
        counter = self[client]
        if rested:
            first = self.waiting.first()
            counter = max(counter, self._left_at if first is None else self[first])
        self._set(client, counter)
        self.waiting.set(client, self._of[client])

    def leave(self, client: Client) -> None:
        """It has nothing that waits."""
        if client in self.waiting:
            self.waiting.discard(client)
            if not self.waiting:
                self._left_at = max(self._left_at, self[client])

    def pay(self, client: Client, amount: float) -> None:
        """It gets so much; below 0: it did not get what it has paid."""
        self._set(client, self[client] + amount / self._weight.get(client, 1.0))
        if client in self.waiting:
            self.waiting.set(client, self._of[client])

    def forget(self, client: Client) -> None:
        """It never comes back."""
        self.leave(client)
        self._of.pop(client, None)
        self._weight.pop(client, None)

    def _set(self, client: Client, counter: float) -> None:
        if client in self._of:
            self._of[client] = counter, self._of[client][1]
        else:
            self._num += 1
            self._of[client] = counter, self._num  # a number, so that equal ones have an order
