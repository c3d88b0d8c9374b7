"""When a call is made again (client/retry.py).

    failed -> may it happen twice without harm? -> wait (jittered, doubling; at least what the server asked for) -> again

Only what waiting may help is tried again: errors that say so (`retryable`: EAGAIN, EBUSY, ENOSPC; any that says when to come again,
as EDQUOT of a rate limit does) and a connection that broke. Who is asked to wait longer than `MOST_ASKED_S` is told instead. Each
unary call of the client is a read or has a `request_id`, so none of them can happen twice. A server that was never reached is not
waited for: that nobody listens there is an answer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_symphony.errors import InvalidArgument, SymphonyError

RECONNECT_VARIABLE = "SYMPHONY_RECONNECT_S"
MOST_ASKED_S = 60.0
_RECONNECT_S = 30.0


def _reconnect_s() -> float:
    """Raises InvalidArgument when the variable holds no number."""
    text = os.environ.get(RECONNECT_VARIABLE) or _RECONNECT_S
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(f"{RECONNECT_VARIABLE} must be seconds, not {text!r}") from None


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long. `tries=1`: a call is made once; `reconnect_s=0`: a stream that broke stays broken.

    tries         of a unary call, the first one too; its deadline ends them earlier
    first_s       the first wait; each further one is twice as long, up to `most_s`; half of each is chance
    reconnect_s   how long a stream (run, attach) whose connection broke looks for the server; None: $SYMPHONY_RECONNECT_S, else 30.
                  A session looks as long as its lease.
    """

    tries: int = 5
    first_s: float = 0.05
    most_s: float = 2.0
    reconnect_s: float | None = None

    def __post_init__(self) -> None:
        if self.tries < 1 or not 0 < self.first_s <= self.most_s:
            raise InvalidArgument(f"retry needs tries >= 1 and 0 < first_s <= most_s, not {self}")

    @property
    def patience_s(self) -> float:
        """What `reconnect_s` stands for."""
        return _reconnect_s() if self.reconnect_s is None else self.reconnect_s

    @staticmethod
    def wait_s(own_s: float, error: Exception, rng: random.Random | None = None) -> float:
        """How long to wait before the next try: what the server asked for, and up to a quarter more, so that not all come at
        once."""
        asked_s = (error.retry_after_s if isinstance(error, SymphonyError) else None) or 0.0
        return max(own_s, asked_s * (rng or random).uniform(1.0, 1.25))

    def waits(self, rng: random.Random | None = None) -> Iterator[float]:
        """Seconds before the second try, the third, and so on, without end."""
        chance = rng or random.Random()
        longest = self.first_s
        while True:
            yield longest * chance.uniform(0.5, 1.0)
            longest = min(longest * 2, self.most_s)


def waiting_helps(error: SymphonyError) -> bool:
    """The server says so, and not for too long."""
    return (error.retryable or error.retry_after_s is not None) and (error.retry_after_s or 0.0) <= MOST_ASKED_S
