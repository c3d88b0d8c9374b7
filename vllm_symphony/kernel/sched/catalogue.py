"""All policies by level and name (kernel/sched/catalogue.py), for whoever chooses one: an operator, a trace, a call.

    justitia                     as text a policy is its name
    plas:quantum=64,patience=8   and what parameters have other values than by default

What there is stands here once: helps, errors, `symphony sched` and the simulator read this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from vllm_symphony.errors import InvalidArgument, NotSupported
from vllm_symphony.kernel.effect import SetPolicy
from vllm_symphony.kernel.sched import batch, memory, parameter
from vllm_symphony.kernel.sched.atlas import CriticalPath
from vllm_symphony.kernel.sched.fcfs import FirstCome
from vllm_symphony.kernel.sched.justitia import FairFinish
from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.plas import AttainedService
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.priority import ByPriority
from vllm_symphony.kernel.sched.shortest import ShortestLeft
from vllm_symphony.kernel.sched.vtc import EqualShares

PROCESS, MEMORY, BATCH = "process", "memory", "batch"  # levels of `SetPolicy`
POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (FirstCome, ByPriority, EqualShares, AttainedService, CriticalPath, FairFinish, ShortestLeft)
}
DEFAULT = ShortestLeft.name


class Described(Protocol):
    """What an operator is told of a policy, of whatever level: its name, one line, its parameters."""

    @property
    def name(self) -> str: ...

    @property
    def help(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...


LEVELS: Mapping[str, Mapping[str, Described]] = {PROCESS: POLICIES, MEMORY: memory.POLICIES, BATCH: batch.POLICIES}
DEFAULTS: Mapping[str, str] = {PROCESS: DEFAULT, MEMORY: memory.DEFAULT, BATCH: batch.DEFAULT}
DECIDES: Mapping[str, str] = {PROCESS: "who goes first", MEMORY: "who holds pages while it waits", BATCH: "when a step begins"}
SIMULATED = frozenset(name for name, policy in batch.POLICIES.items() if not policy.on_engine)  # they are to compare with


def policy_of(name: str, parameters: Mapping[str, float], predictor: Predictor) -> Policy:
    """A new one of the process level. Raises InvalidArgument as `demand` does."""
    demand(PROCESS, name, parameters)
    chosen = POLICIES[name]
    return chosen(predictor, **parameters) if chosen in (FairFinish, ShortestLeft) else chosen(**parameters)


def demand(level: str, name: str, parameters: Mapping[str, float], *, simulated: bool = False) -> Described:
    """The policy, for a server or for a simulation.

    Raises:
        InvalidArgument: there is no such level, policy or parameter, or a value is too small.
        NotSupported: the policy is for the simulator only.
    """
    if level not in LEVELS:
        raise InvalidArgument(f"no level of scheduling is called {level[:64]!r}: there are {', '.join(LEVELS)}", level=level[:64])
    known = LEVELS[level]
    if name not in known:
        raise InvalidArgument(f"no {level} policy is called {name[:64]!r}: there are {', '.join(known)}", policy=name[:64])
    if name in SIMULATED and not simulated:
        served = ", ".join(other for other in known if other not in SIMULATED)
        raise NotSupported(f"{name} is for `symphony simulate` only; here there are {served}")
    parameter.demand(name, known[name].parameters, parameters)
    return known[name]


def parsed(level: str, text: str, *, simulated: bool = False) -> SetPolicy:
    """Of `name` or `name:parameter=value,...`. Raises InvalidArgument: it is no such text, or as `demand` does."""
    name, _, rest = text.partition(":")
    given: dict[str, float] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InvalidArgument(f"a policy is NAME or NAME:PARAMETER=NUMBER,..., not {text[:256]!r}") from None
        if key in given:
            raise InvalidArgument(f"{key[:64]} stands twice in {text[:256]!r}")
        given[key] = number
    demand(level, name, given, simulated=simulated)
    return SetPolicy(level, name, tuple(given.items()))


def text(name: str, parameters: Mapping[str, float]) -> str:
    """What `parsed` reads."""
    return ":".join((name, *([",".join(f"{key}={value:.17g}" for key, value in parameters.items())] if parameters else ())))


def values(level: str, name: str, parameters: Mapping[str, float]) -> dict[str, float]:
    """All parameters of a policy that was checked, those that were not given by default."""
    return {key: parameters.get(key, known.default) for key, known in LEVELS[level][name].parameters.items()}


def told(level: str, *, simulated: bool = False) -> Iterator[str]:
    """A line for each policy of a level and for each of its parameters, for a help: of a server, or of a simulation."""
    for name, policy in LEVELS[level].items():
        if name in SIMULATED and not simulated:
            continue
        mark = " (default)" if name == DEFAULTS[level] else " (simulated only)" if name in SIMULATED else ""
        yield f"{name:<10} {policy.help}{mark}"
        for key, known in policy.parameters.items():
            yield f"{'':<10}   {key}: {known.help} ({known.default:g})"
