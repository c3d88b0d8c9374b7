"""What steps and moves cost here, measured as they happen (kernel/sched/memory/cost.py).

    a step of n tokens takes      step_s + token_s n            a line by least squares over the last some hundred (`Line`)
    a move of n pages takes       host_move_s + host_s n        one way, from its order to its end; the same to and from disk
    requeue_s                                                   how long a call waits for pages that it had lost

What a move takes whatever its size is mostly that its end is seen between two steps. Nothing is configured: the same policy is
right on a machine with a fast link and a slow model and on one with the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

FORGET = 1 / 256  # weight of the newest of many observations
STEP_S, TOKEN_S, REQUEUE_S = 0.01, 1e-4, 0.05  # first guesses
HOST_MOVE_S, HOST_S, DISK_MOVE_S, DISK_S = 1e-3, 1e-4, 5e-3, 1e-3
GUESS_TOKENS, GUESS_PAGES = 32.0, 2.0  # the guess of a slope counts like one observation that differs by so many


@dataclass(frozen=True, slots=True)
class Costs:
    """As they are now. `busy_tokens`: KV that calls in the batch hold, which waits while something else is computed."""

    step_s: float = STEP_S
    token_s: float = TOKEN_S
    step_tokens: int = 2048
    host_move_s: float = HOST_MOVE_S
    host_s: float = HOST_S
    disk_move_s: float = DISK_MOVE_S
    disk_s: float = DISK_S
    requeue_s: float = REQUEUE_S
    busy_tokens: int = 0

    def compute_s(self, num_tokens: int) -> float:
        """Until so many tokens have KV, in chunks of a step, if nothing else is computed."""
        return self.step_s * ceil(num_tokens / self.step_tokens) + self.token_s * num_tokens

    def move_s(self, tier: str, num_pages: int) -> float:
        """So many pages, one way."""
        fixed_s, page_s = (self.host_move_s, self.host_s) if tier == "host" else (self.disk_move_s, self.disk_s)
        return fixed_s + page_s * num_pages if num_pages else 0.0


class Average:
    """A mean that follows: of all at first, later of the last 1 / FORGET."""

    __slots__ = ("value", "weight")

    def __init__(self, guess: float) -> None:
        self.value, self.weight = guess, 1.0

    def add(self, value: float) -> None:
        self.weight = self.weight * (1 - FORGET) + 1
        self.value += (value - self.value) / self.weight


class Line:
    """seconds = fixed + slope n, by least squares over the last 1 / FORGET observations; the slope is drawn towards its guess."""

    def __init__(self, fixed: float, slope: float, guess_n: float) -> None:
        self._guess = fixed, slope
        self._pull = guess_n**2
        self._num = self._n = self._seconds = self._n2 = self._both = 0.0

    def add(self, n: float, seconds: float) -> None:
        keep = 1 - FORGET
        self._num = self._num * keep + 1
        self._n = self._n * keep + n
        self._seconds = self._seconds * keep + seconds
        self._n2 = self._n2 * keep + n**2
        self._both = self._both * keep + n * seconds

    def fit(self) -> tuple[float, float]:
        """Neither is negative."""
        if not self._num:
            return self._guess
        mean_n, mean_s = self._n / self._num, self._seconds / self._num
        spread = max(0.0, self._n2 - self._num * mean_n**2)
        together = self._both - self._num * mean_n * mean_s
        slope = max(0.0, (together + self._pull * self._guess[1]) / (spread + self._pull))
        if slope * mean_n > mean_s:
            return 0.0, mean_s / mean_n
        return mean_s - slope * mean_n, slope


class Measured:
    """Takes what happens, gives `Costs`. Owned by the thread that steps."""

    def __init__(self, step_tokens: int) -> None:
        self.step_tokens = step_tokens
        self._steps = Line(STEP_S, TOKEN_S, GUESS_TOKENS)
        self._host, self._disk = Line(HOST_MOVE_S, HOST_S, GUESS_PAGES), Line(DISK_MOVE_S, DISK_S, GUESS_PAGES)
        self._requeue = Average(REQUEUE_S)
        self._known: Costs | None = None  # until something happens: they are asked for once for each file that may give

    def stepped(self, num_tokens: int, seconds: float) -> None:
        """A step is over."""
        self._steps.add(num_tokens, seconds)
        self._known = None

    def moved(self, tier: str, num_pages: int, seconds: float) -> None:
        """Pages went to a tier, or came from it."""
        if num_pages:
            (self._host if tier == "host" else self._disk).add(num_pages, seconds)
            self._known = None

    def requeued(self, seconds: float) -> None:
        """A call whose file had lost pages began after so long."""
        self._requeue.add(seconds)
        self._known = None

    def costs(self, busy_tokens: int = 0) -> Costs:
        """What is known now."""
        known = self._known
        if known is None or known.busy_tokens != busy_tokens:
            moves = (*self._host.fit(), *self._disk.fit())
            known = self._known = Costs(*self._steps.fit(), self.step_tokens, *moves, self._requeue.value, busy_tokens)
        return known
