"""What a program will need, from what those of its name needed (kernel/sched/predict.py).

    tokens   that a call decodes            calls   that a program makes          cost   of a program, in KV tokens x steps
    work     of a program, in weighted tokens
    gap      seconds between two calls of one thread, by what it waited for: a tool (by name), a sleep, a message, its own code

Learned online from what happened, never from what anybody declares: who lies gains nothing. A name is (principal, program), so
nobody teaches another's programs. The estimate of one that has come to `so_far` is the mean of those that came further, shrunk
towards the mean over all names, and that towards a constant, as if each had been seen `SHRINK` times (empirical Bayes with a fixed
weight; Efron and Morris, "Data analysis using Stein's estimator", 1975). Cold start is thus no case of its own: a new name gets
the mean of all, the first of all the constant, and who has outlived everybody is expected to last as long again.

Each prediction that was made at a beginning is compared with what came: `errors`, sum |predicted - actual| / sum actual.
Bounded: `NAMES` names, the one not used for longest is forgotten; `Recent.SIZE` values each.
Source: a light model a program type, corrected as it runs, is Justitia's (arXiv 2510.17015, section 4); tools' own histories are
Continuum's (arXiv 2511.02230, section 4.2).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import sqrt

from vllm_symphony.kernel.sched.recent import Recent

Name = tuple[str, str]  # principal, program
SHRINK = 4  # observations that the more general estimate counts for
NAMES = 1024
TOKENS, CALLS, COST, WORK, GAP = "tokens", "calls", "cost", "work", "gap"  # the quantities
FIRST_GUESS = {TOKENS: 64.0, CALLS: 4.0, COST: 16_384.0, WORK: 1024.0, GAP: 1.0}


@dataclass(slots=True)
class Error:
    """How far predictions of a quantity were off."""

    num: int = 0
    off: float = 0.0
    actual: float = 0.0

    @property
    def relative(self) -> float:
        return self.off / self.actual if self.actual else 0.0


class Quantity:
    """One quantity, for each key and over all."""

    def __init__(self, guess: float) -> None:
        self.guess = guess
        self.error = Error()
        self.all = Recent()
        self._own: OrderedDict[tuple[str, ...], Recent] = OrderedDict()

    def add(self, key: tuple[str, ...], value: float) -> None:
        """It came to `value`."""
        self.error.num += 1
        self.error.off += abs(self.expected(key) - value)
        self.error.actual += value
        own = self._own.pop(key, None) or Recent()
        self._own[key] = own
        if len(self._own) > NAMES:
            self._own.popitem(last=False)
        own.add(value)
        self.all.add(value)

    def expected(self, key: tuple[str, ...], so_far: float = 0.0) -> float:
        """Where one of this key ends that has come to `so_far`; more than that."""
        estimate = max(self.guess, 2 * so_far)
        for known in (self.all, self._own.get(key)):
            if known is not None:
                count, total = known.beyond(so_far)
                estimate = (total + SHRINK * estimate) / (count + SHRINK)
        return estimate

    def known(self, key: tuple[str, ...], least: int) -> Recent | None:
        """The key's own history, if it has seen so many."""
        own = self._own.get(key)
        return own if own is not None and len(own) >= least else None

    def keys(self) -> int:
        return len(self._own)


class Predictor:
    """What the policies may ask. Called by the thread that steps; no clock."""

    def __init__(self) -> None:
        self._of = {what: Quantity(guess) for what, guess in FIRST_GUESS.items()}
        self._tools = Quantity(FIRST_GUESS[GAP])  # gaps by what is waited for alone

    # ---- what happened

    def called(self, name: Name, num_tokens: int) -> None:
        """A call has decoded so many tokens."""
        self._of[TOKENS].add(name, num_tokens)

    def ended(self, name: Name, num_calls: int, cost: float, work: float) -> None:
        """A program has ended, after so many calls."""
        self._of[CALLS].add(name, num_calls)
        self._of[COST].add(name, cost)
        self._of[WORK].add(name, work)

    def rested(self, name: Name, why: str, tool: str, seconds: float) -> None:
        """A thread has come back from what it waited for."""
        self._of[GAP].add((*name, why, tool), seconds)
        self._tools.add((why, tool), seconds)

    # ---- what to expect

    def tokens(self, name: Name, so_far: int = 0) -> float:
        """Of a call, all in all."""
        return self._of[TOKENS].expected(name, so_far)

    def calls(self, name: Name, so_far: int = 0) -> float:
        """Of a program, all in all."""
        return self._of[CALLS].expected(name, so_far)

    def cost(self, name: Name, so_far: float = 0.0) -> float:
        """Of a program, all in all."""
        return self._of[COST].expected(name, so_far)

    def work(self, name: Name, so_far: float = 0.0) -> float:
        """Of a program, all in all: weighted tokens (runnable.py)."""
        return self._of[WORK].expected(name, so_far)

    def gap_s(self, name: Name, why: str, tool: str, so_far_s: float = 0.0) -> float:
        """Until the thread comes back, all in all."""
        return self._of[GAP].expected((*name, why, tool), so_far_s)

    def gaps(self, name: Name, why: str, tool: str, least: int) -> Recent | None:
        """The history of such gaps: this program's, else everybody's with this tool; None: neither has seen `least`."""
        return self._of[GAP].known((*name, why, tool), least) or self._tools.known((why, tool), least)

    def turns(self) -> float:
        """Continuum's eta, -Corr(k, N - k) over the k-th calls of programs with N: 1 when all make as many calls (who has made
        many has few left), 0 when the past says nothing. 1 while nothing is known."""
        return _turns(self._of[CALLS].all.values)

    @property
    def errors(self) -> dict[str, Error]:
        """Of each quantity."""
        return {what: quantity.error for what, quantity in self._of.items()}


def _turns(counts: list[float]) -> float:
    """By closed sums over k = 1..N for each N: O(len(counts))."""
    num = k_sum = left_sum = k_k = left_left = k_left = 0.0
    for n in counts:
        squares = n * (n + 1) * (2 * n + 1) / 6
        num += n
        k_sum += n * (n + 1) / 2
        left_sum += n * (n - 1) / 2
        k_k += squares
        left_left += (n - 1) * n * (2 * n - 1) / 6
        k_left += n * n * (n + 1) / 2 - squares
    spread = (num * k_k - k_sum**2) * (num * left_left - left_sum**2)
    if spread <= 0:
        return 1.0
    return min(1.0, max(0.0, -(num * k_left - k_sum * left_sum) / sqrt(spread)))
