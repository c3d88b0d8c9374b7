"""How fast each principal may ask, and how much at once (edge/rate.py).

    Limit(per_s=20, burst=40, at_once=8)      20 requests a second on average, 40 in one go, 8 unanswered

    *  ops  alice                  limits by principal (`--rate-limit`, `--call-limit`); `*` is who is not named
    token ci                       a limit of its own beside its principal's (`symphony token add --rate`)

A bucket of `burst` drops that fills with `per_s`; a request takes one, and where there is none it is EDQUOT with the time until
there is. A request that is refused takes nothing, of neither bucket. Without limits nothing is counted. Each door counts for
itself: the kernel's own limits (of processes and principals) hold for all doors together.

Rejected: the package `limits` (windows, no bucket that says when to come again; a store and a lock around each look).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vllm_symphony.errors import InvalidArgument, QuotaExceeded

EVERYBODY = "*"
RETRY_AT_ONCE_S = 0.1  # a request ends when it ends
MAX_BUCKETS = 1024  # above it those that are full again are forgotten; where many stay, at twice as many again
_MAX_PER_S = 1e6
_ROUNDING = 1e-6  # of a drop: who waited as long as it was told is not told to wait again


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one principal or token; None: no such limit."""

    per_s: float | None = None
    burst: int = 1
    at_once: int | None = None

    def __str__(self) -> str:
        return "none" if self.per_s is None else f"{self.per_s:g}/s:{self.burst}"


def limit_of(text: str) -> Limit:
    """What `20/s`, `20/s:40` or `90/m` says; the burst is a second's worth where it does not say. Raises InvalidArgument."""
    rate, _, burst = text.partition(":")
    number, _, unit = rate.partition("/")
    try:
        per_s = float(number) / {"s": 1, "m": 60, "h": 3600}[unit]
        many = int(burst) if burst else max(1, round(per_s))
    except (ValueError, KeyError, OverflowError):
        per_s, many = 0.0, 0
    if not 0 < per_s <= _MAX_PER_S or not 0 < many <= _MAX_PER_S:
        raise InvalidArgument(f"no rate: {text!r} (as 20/s, 90/m or 20/s:40, where 40 may come at once)")
    return Limit(per_s, many)


def limits_of(rates: Sequence[str], calls: Sequence[str] = ()) -> dict[str, Limit]:
    """The limits of `--rate-limit NAME=RATE` and `--call-limit NAME=N`, `*` for who is not named. Raises InvalidArgument."""
    found: dict[str, Limit] = {}
    for text in rates:
        name, rate = _named(text, "--rate-limit", "NAME=20/s:40")
        found[name] = replace(limit_of(rate), at_once=found.get(name, Limit()).at_once)
    for text in calls:
        name, number = _named(text, "--call-limit", "NAME=8")
        if not number.isdecimal() or not 0 < int(number[:9]) <= _MAX_PER_S:
            raise InvalidArgument(f"--call-limit {text}: {number!r} is no number of calls")
        found[name] = replace(found.get(name, Limit()), at_once=int(number))
    return found


class _Bucket:
    """How many requests may come now."""

    __slots__ = ("at_s", "limit", "num_drops")

    def __init__(self, limit: Limit, now_s: float) -> None:
        self.limit, self.num_drops, self.at_s = limit, float(limit.burst), now_s

    def wait_s(self, now_s: float, cost: float) -> float:
        """How long until `cost` requests may come; 0: now."""
        assert self.limit.per_s is not None
        self.num_drops = min(self.limit.burst, self.num_drops + max(0.0, now_s - self.at_s) * self.limit.per_s)
        self.at_s = now_s
        lacks = min(cost, self.limit.burst) - self.num_drops
        return lacks / self.limit.per_s if lacks > _ROUNDING else 0.0


class Rates:
    """Of one door. `num_refused`: how many requests it refused."""

    def __init__(
        self,
        limits: Mapping[str, Limit] | None = None,
        *,
        refused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refused` is called at each refusal."""
        given = dict(limits or {})
        self._others = given.pop(EVERYBODY, Limit())
        self._named = {name: _completed(limit, self._others) for name, limit in given.items()}
        self._tell = refused
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._num_to_look = MAX_BUCKETS  # for those that are full again
        self._num_open: dict[str, int] = {}
        self.num_refused = 0

    def admit(self, principal: str, cost: float = 1, *, token: tuple[str, Limit] | None = None) -> None:
        """Count a request of `principal`; `token`: the id and the limit of what it showed, where that has one.

        Raises QuotaExceeded, with `retry_after_s`: it asks too fast.
        """
        now_s = self._clock()
        asked = [self._bucket(f"principal {principal}", self._limit(principal), now_s)]
        if token:
            asked.append(self._bucket(f"token {token[0]}", token[1], now_s))
        buckets = [b for b in asked if b]
        waits = [b.wait_s(now_s, cost) for b in buckets]
        if waits and (wait_s := max(waits)) > 0:
            self._refused()
            limit = buckets[waits.index(wait_s)].limit
            raise QuotaExceeded(
                f"{principal} asks faster than {limit.per_s:g} requests a second: come again in {wait_s:.3g} s",
                retry_after_s=wait_s,
                principal=principal,
                limit=limit.per_s or 0.0,
            )
        for bucket in buckets:
            bucket.num_drops -= cost

    @contextmanager
    def at_once(self, principal: str) -> Iterator[None]:
        """Count a request of `principal` that is being answered. Raises QuotaExceeded: too many are."""
        most = self._limit(principal).at_once
        if most is None:
            yield
            return
        have = self._num_open.get(principal, 0)
        if have >= most:
            self._refused()
            raise QuotaExceeded(
                f"{have} requests of {principal} are being answered, the most at once",
                retry_after_s=RETRY_AT_ONCE_S,
                principal=principal,
                limit=most,
            )
        self._num_open[principal] = have + 1
        try:
            yield
        finally:
            if self._num_open[principal] == 1:
                del self._num_open[principal]
            else:
                self._num_open[principal] -= 1

    @contextmanager
    def within(self, principal: str, *, token: tuple[str, Limit] | None = None) -> Iterator[None]:
        """Both: it is not too fast, and counted while it is being answered. Raises QuotaExceeded."""
        self.admit(principal, token=token)
        with self.at_once(principal):
            yield

    def check(self) -> None:
        """Nothing is counted below nothing, and nobody is kept who has nothing open."""
        assert all(n > 0 for n in self._num_open.values()), self._num_open
        assert all(b.num_drops <= b.limit.burst for b in self._buckets.values())

    def _refused(self) -> None:
        self.num_refused += 1
        self._tell()

    def _limit(self, principal: str) -> Limit:
        return self._named.get(principal, self._others)

    def _bucket(self, whose: str, limit: Limit, now_s: float) -> _Bucket | None:
        if limit.per_s is None:
            return None
        bucket = self._buckets.get(whose)
        if bucket is None or bucket.limit != limit:
            if len(self._buckets) >= self._num_to_look:
                self._buckets = {k: b for k, b in self._buckets.items() if b.wait_s(now_s, b.limit.burst) > 0}
                self._num_to_look = max(MAX_BUCKETS, 2 * len(self._buckets))
            bucket = self._buckets[whose] = _Bucket(limit, now_s)
        return bucket


def _completed(limit: Limit, others: Limit) -> Limit:
    """What it does not say is as for the others."""
    at_once = others.at_once if limit.at_once is None else limit.at_once
    return replace(others if limit.per_s is None else limit, at_once=at_once)


def _named(text: str, flag: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidArgument(f"{flag} {text}: NAME=... is expected, as {flag} '{example}'; * is whoever is not named")
    return name, value
