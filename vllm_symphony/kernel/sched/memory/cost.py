"""What steps and moves cost here, measured as they happen (kernel/sched/memory/cost.py).

    a step of n tokens takes   step_s + token_s n       least squares over the last some hundred steps, drawn towards a first guess
    a page on its way takes    host_s or disk_s         one way; mean of the last moves, weighted by pages
    requeue_s                                           how long a call waits for pages that it had lost

Nothing is configured: the same policy is right on a machine with a fast link and a slow model and on one with the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

FORGET = 1 / 256  # weight of the newest of many observations
STEP_S, TOKEN_S, HOST_S, DISK_S, REQUEUE_S = 0.01, 1e-4, 1e-4, 1e-3, 0.05  # first guesses
GUESS_TOKENS = 32.0  # the guess of token_s counts like one step that differs by so many tokens


@dataclass(frozen=True, slots=True)
class Costs:
    """As they are now. `busy_tokens`: KV that calls in the batch hold, which waits while something else is computed."""

    step_s: float = STEP_S
    token_s: float = TOKEN_S
    step_tokens: int = 2048
    host_s: float = HOST_S
    disk_s: float = DISK_S
    requeue_s: float = REQUEUE_S
    busy_tokens: int = 0

    def compute_s(self, num_tokens: int) -> float:
        """Until so many tokens have KV, in chunks of a step, if nothing else is computed."""
        return self.step_s * ceil(num_tokens / self.step_tokens) + self.token_s * num_tokens

    def page_s(self, tier: str) -> float:
        """One page, one way."""
        return self.host_s if tier == "host" else self.disk_s


class Average:
    """A mean that follows: of all at first, later of the last 1 / FORGET."""

    __slots__ = ("value", "weight")

    def __init__(self, guess: float) -> None:
        self.value, self.weight = guess, 1.0

    def add(self, value: float, by: float = 1.0) -> None:
        self.weight = self.weight * (1 - FORGET) ** by + by
        self.value += (value - self.value) * by / self.weight


class Measured:
    """Takes what happens, gives `Costs`. Owned by the thread that steps."""

    def __init__(self, step_tokens: int) -> None:
        self.step_tokens = step_tokens
        self.host, self.disk, self.requeue = Average(HOST_S), Average(DISK_S), Average(REQUEUE_S)
        self._num = self._tokens = self._seconds = self._tokens2 = self._both = 0.0

    def stepped(self, num_tokens: int, seconds: float) -> None:
        """A step is over."""
        keep = 1 - FORGET
        self._num = self._num * keep + 1
        self._tokens = self._tokens * keep + num_tokens
        self._seconds = self._seconds * keep + seconds
        self._tokens2 = self._tokens2 * keep + num_tokens**2
        self._both = self._both * keep + num_tokens * seconds

    def moved(self, tier: str, num_pages: int, seconds: float) -> None:
        """Pages went to a tier, or came from it."""
        if num_pages:
            (self.host if tier == "host" else self.disk).add(seconds / num_pages, by=num_pages)

    def requeued(self, seconds: float) -> None:
        """A call whose file had lost pages began after so long."""
        self.requeue.add(seconds)

    def costs(self, busy_tokens: int = 0) -> Costs:
        """What is known now."""
        step_s, token_s = self._fit()
        return Costs(step_s, token_s, self.step_tokens, self.host.value, self.disk.value, self.requeue.value, busy_tokens)

    def _fit(self) -> tuple[float, float]:
        if not self._num:
            return STEP_S, TOKEN_S
        mean_tokens, mean_s = self._tokens / self._num, self._seconds / self._num
        spread = max(0.0, self._tokens2 - self._num * mean_tokens**2)
        together = self._both - self._num * mean_tokens * mean_s
        guess = GUESS_TOKENS**2
        token_s = max(0.0, (together + guess * TOKEN_S) / (spread + guess))
        if token_s * mean_tokens > mean_s:  # never a negative step
            return 0.0, mean_s / mean_tokens
        return mean_s - token_s * mean_tokens, token_s
