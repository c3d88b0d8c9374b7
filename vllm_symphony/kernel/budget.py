"""Limits, and what of them is used (kernel/budget.py).

    principal "ann"              tokens 10,000,000
        |   session 7            (none)                          a use is charged to every budget on the way up, and is
        |      program 8         tokens 1,000, wall_s 60         refused when one of them has no room for it
        |         program 9      (none: only what is above)

A budget lives as long as somebody is charged to it: what a detached child uses still counts for its parent, which may have ended.
What is counted is exact for calls that say before what they use (append, forward: `hold`); generates that run at the same time may
pass the limit together by the tokens of a step or two, until the device has heard; device time is known when a call ends.
Invariants (`check`): `processes` is the number of programs below that run; nothing is held when no job runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.record import PrincipalRecord
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.errors import InvalidArgument, QuotaExceeded
from vllm_symphony.kernel.timer import Timer

if TYPE_CHECKING:
    from vllm_symphony.kernel.call import Call
    from vllm_symphony.kernel.machine import Machine
    from vllm_symphony.kernel.process import Process

NAMES = tuple(field.name for field in fields(ResourceLimits))
COUNTED = ("tokens", "device_s", "cpu_s", "tool_calls", "processes")  # what a budget counts; the others are of one process, or time
LASTING = ("tokens", "device_s", "cpu_s", "tool_calls")  # of a principal: kept by the store
_WHOLE = ("tokens", "memory_bytes", "tasks", "fds", "processes", "depth", "tool_calls")
_SAVE_EACH = 64  # the store hears of a principal's use when a part of its limit like this was used, and when a program ends
MAX_LIMIT = 1 << 53
NO_LIMITS = ResourceLimits()


class Budget:
    """What one process with all below it, or one principal (`principal`), may use and has used. `above`: the next one on the way
    up. `held`: tokens of forwards in flight. `late`: its time is over."""

    __slots__ = (
        "above", "cpu_s", "device_s", "held", "late", "limits", "owner", "principal", "processes", "saved", "started_ns", "timer",
        "tokens", "tool_calls",
    )  # fmt: skip

    def __init__(self, owner: str, limits: ResourceLimits, above: Budget | None, now_ns: int, *, principal: str = "") -> None:
        self.owner = owner  # in words
        self.principal = principal
        self.limits = limits
        self.above = above
        self.started_ns = now_ns
        self.tokens = self.tool_calls = self.processes = self.held = 0
        self.device_s = self.cpu_s = 0.0
        self.late = False
        self.timer: Timer | None = None
        self.saved: PrincipalRecord | None = None

    def chain(self) -> Iterator[Budget]:
        """This one, and those above it."""
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget.above

    def used(self, now_ns: int) -> ResourceLimits:
        """What counts against the limits, as far as it is counted."""
        wall_s = None if self.principal else (now_ns - self.started_ns) / 1e9
        return ResourceLimits(
            tokens=self.tokens, device_s=self.device_s, wall_s=wall_s, cpu_s=self.cpu_s, processes=self.processes,
            tool_calls=self.tool_calls,
        )  # fmt: skip

    def left(self, what: str) -> float:
        """How much more may be used of what is counted, with all above; 0 or more."""
        least: float = inf
        budget: Budget | None = self
        while budget is not None:
            if budget.limits is not NO_LIMITS:
                least = min(least, budget.left_here(what))
            budget = budget.above
        return least

    def left_here(self, what: str) -> float:
        """The same, of this one alone."""
        limit: float | None = getattr(self.limits, what)
        if limit is None:
            return inf
        used: float = getattr(self, what) + (self.held if what == "tokens" else 0)
        return max(0, limit - used)

    def is_used_up(self, what: str) -> bool:
        """Nothing of it is left, whatever jobs in flight give back."""
        limit = getattr(self.limits, what)
        return limit is not None and getattr(self, what) >= limit

    def words(self, what: str, now_ns: int) -> str:
        """`tokens: 1,000 of 1,000 used`."""
        limit, used = getattr(self.limits, what), getattr(self.used(now_ns), what)
        return f"{what}: {_number(used)} of {_number(limit)} used"

    def spent(self, what: str, now_ns: int) -> QuotaExceeded:
        """The error of who asks for more of this than there is."""
        advice = _ADVICE[what] if not self.principal else "wait until they have ended" if what == "processes" else _ASK
        return QuotaExceeded(
            f"{self.words(what, now_ns)} by {self.owner}: {advice}",
            resource=what,
            limit=getattr(self.limits, what),
            used=getattr(self.used(now_ns), what),
        )

    def check(self, running: int, has_jobs: bool) -> None:
        """The invariants above; `running`: programs that are charged to it."""
        assert self.processes == running, f"{self.owner}: {self.processes} programs counted, {running} run"
        assert self.held == 0 or has_jobs
        assert self.timer is None or not self.timer.live or running


_ADVICE = {
    "tokens": "finish with what there is, or start it with a higher limit",
    "device_s": "finish with what there is, or start it with a higher limit",
    "wall_s": "it must end now; start it with a higher limit",
    "cpu_s": "it must end now; start it with a higher limit",
    "processes": "wait for one to end",
    "depth": "a program so deep may spawn none",
    "tool_calls": "go on without tools, or start it with a higher limit",
}
_ASK = "an operator may allow them more"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")


# ---- making them


def of_principal(m: Machine, principal: str) -> Budget:
    """That of all that a principal's programs, sessions and calls use together."""
    budget = m.budgets.get(principal)
    if budget is None:
        budget = Budget(f"all programs of {principal}", NO_LIMITS, None, m.boot_ns, principal=principal)
        m.budgets[principal] = budget
    return budget


def of_call(m: Machine, call: Call) -> Budget:
    """Who pays for what the call uses: its process, or whom the edge calls for."""
    return call.process.budget or of_principal(m, call.cred.principal)


def demand_limits(limits: ResourceLimits) -> None:
    """Raises InvalidArgument for what is no limit."""
    for name in NAMES:
        value = getattr(limits, name)
        if value is not None and not (isfinite(value) and 0 <= value <= MAX_LIMIT):
            raise InvalidArgument(f"{name} must be in 0..{MAX_LIMIT}, not {value}", what=name)


def tighter(a: ResourceLimits, b: ResourceLimits) -> ResourceLimits:
    """The lower one of each."""
    lower = {name: min((v for v in (getattr(a, name), getattr(b, name)) if v is not None), default=None) for name in NAMES}
    return ResourceLimits(**lower)


def filled(limits: ResourceLimits, defaults: ResourceLimits) -> ResourceLimits:
    """The defaults, where it does not say."""
    unsaid = {name: getattr(defaults, name) for name in NAMES if getattr(limits, name) is None}
    return replace(limits, **unsaid)


def in_force(budget: Budget, now_ns: int) -> ResourceLimits:
    """What the process may use in all as things stand: its own limits, and what those above it leave. So `limit - used` is what
    is left."""
    own = budget.used(now_ns)
    found: dict[str, float] = {}
    for distance, b in enumerate(budget.chain()):
        for name in NAMES:
            limit = getattr(b.limits, name)
            if limit is None:
                continue
            if name in COUNTED:
                limit = getattr(own, name) + max(0, limit - getattr(b, name))
            elif name == "depth":
                limit = max(0, limit - distance)
            elif name == "wall_s":
                limit = max(0.0, limit - (budget.started_ns - b.started_ns) / 1e9)
            found[name] = min(limit, found.get(name, inf))
    whole: dict[str, Any] = {name: int(value) if name in _WHOLE else value for name, value in found.items()}
    return ResourceLimits(**whole)


# ---- using them


def demand_child(parent: Budget, now_ns: int) -> None:
    """Raises QuotaExceeded when one more program may not run below `parent`."""
    for distance, budget in enumerate(parent.chain()):
        limits = budget.limits
        if limits.processes is not None and budget.processes >= limits.processes:
            raise budget.spent("processes", now_ns)
        if limits.depth is not None and not budget.principal and limits.depth <= distance:
            raise QuotaExceeded(
                f"depth: children of children down to {limits.depth} generations may run below {budget.owner}: {_ADVICE['depth']}",
                resource="depth",
                limit=limits.depth,
                used=distance,
            )


def demand(budget: Budget, what: str, amount: float, now_ns: int) -> None:
    """Raises QuotaExceeded when so much more may not be used of what is counted."""
    for b in budget.chain():
        if b.left_here(what) < amount:
            raise b.spent(what, now_ns)


def charge(m: Machine, budget: Budget, what: str, amount: float) -> None:
    """So much more was used. Budgets that are used up by it are dealt with at the end of this entry (kernel/overrun.py)."""
    b: Budget | None = budget
    while b is not None:
        used = getattr(b, what) + amount
        setattr(b, what, used)
        limit = getattr(b.limits, what)
        if limit is not None:
            if used >= limit:
                m.overrun[b, what] = None
            if b.principal:
                save(m, b, limit / _SAVE_EACH, what)
        b = b.above


def start_program(m: Machine, process: Process) -> None:
    """It counts from now on; its time runs."""
    for budget in process.own_budget.chain():
        budget.processes += 1
        if budget.processes == 1:
            watch_time(m, budget)


def end_program(m: Machine, process: Process) -> None:
    """It counts no longer. A budget that nobody is charged to has no time to watch."""
    for budget in process.own_budget.chain():
        budget.processes -= 1
        if not budget.processes:
            m.timers.cancel(budget.timer)
        if budget.principal and budget.limits != NO_LIMITS:
            save(m, budget, 0, "tokens")


def watch_time(m: Machine, budget: Budget) -> None:
    """See to it that its end is noticed."""
    m.timers.cancel(budget.timer)
    budget.timer = None
    budget.late = False
    if budget.limits.wall_s is not None and budget.processes:

        def expire(_: int) -> None:
            budget.late = True
            m.overrun[budget, "wall_s"] = None

        budget.timer = m.timers.at(budget.started_ns + int(budget.limits.wall_s * 1e9), expire)


def recheck(m: Machine, budget: Budget) -> None:
    """Its limits have changed: what is used up now is dealt with at the end of this entry."""
    for what in ("tokens", "device_s", "cpu_s"):
        if budget.is_used_up(what):
            m.overrun[budget, what] = None


class Payer:
    """Who pays for a call: its thread and its process count it, the budgets are charged."""

    __slots__ = ("_budget", "_m", "_tallies")

    def __init__(self, m: Machine, call: Call) -> None:
        self._m = m
        self._budget = of_call(m, call)
        self._tallies = call.tallies()

    def pays(self, budget: Budget) -> bool:
        """Whether what it pays is charged there."""
        return budget in self._budget.chain()

    def hold(self, num_tokens: int) -> None:
        """A job was started that will use so many."""
        for budget in self._budget.chain():
            budget.held += num_tokens

    def release(self, num_tokens: int) -> None:
        """It has ended."""
        self.hold(-num_tokens)

    def put(self, num_tokens: int) -> None:
        """Tokens that the program gave."""
        for tally in self._tallies:
            tally.tokens_in += num_tokens
        self._m.meter.tokens["forwarded"] += num_tokens
        charge(self._m, self._budget, "tokens", num_tokens)

    def draw(self, num_tokens: int, kind: str = "generated") -> None:
        """Tokens that were made for it."""
        self._m.meter.tokens[kind] += num_tokens
        for tally in self._tallies:
            tally.tokens_out += num_tokens
        charge(self._m, self._budget, "tokens", num_tokens)

    def compute(self, num_steps: int, device_s: float) -> None:
        """A job was part of so many steps."""
        for tally in self._tallies:
            tally.num_steps += num_steps
            tally.device_s += device_s
        charge(self._m, self._budget, "device_s", device_s)

    def count(self, what: str, amount: float = 1) -> None:
        """What no limit is on."""
        for tally in self._tallies:
            setattr(tally, what, getattr(tally, what) + amount)

    def call_tool(self) -> None:
        """One more call of a tool; there is room (`demand`)."""
        self.count("num_tools")
        charge(self._m, self._budget, "tool_calls", 1)


# ---- principals, over the life of the server


def set_limits(m: Machine, principal: str, limits: ResourceLimits) -> None:
    """These are a principal's limits from now on."""
    budget = of_principal(m, principal)
    budget.limits = limits
    save(m, budget, 0, "tokens")
    recheck(m, budget)


def save(m: Machine, budget: Budget, step: float, what: str) -> None:
    """Have the store remember it, if `step` of it was used since the last time."""
    saved = budget.saved
    if saved is None or saved.limits != budget.limits or getattr(budget, what) - (getattr(saved.used, what) or 0) >= step:
        used = ResourceLimits(**{name: getattr(budget, name) for name in LASTING})
        record = PrincipalRecord(budget.principal, budget.limits, used)
        if record != saved:
            budget.saved = record
            m.keep.principals[budget.principal] = record


def restore(m: Machine, record: PrincipalRecord) -> None:
    """What the store has of a principal."""
    budget = of_principal(m, record.principal)
    budget.limits = record.limits
    for name in LASTING:
        setattr(budget, name, getattr(record.used, name) or 0)
    budget.saved = record
