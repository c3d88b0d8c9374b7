"""The process policies by name (kernel/sched/catalogue.py), for whoever chooses one: an operator, a trace, `symphony info`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.sched.atlas import CriticalPath
from vllm_symphony.kernel.sched.fcfs import FirstCome
from vllm_symphony.kernel.sched.justitia import Costs, FairFinish
from vllm_symphony.kernel.sched.plas import AttainedService
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.priority import ByPriority
from vllm_symphony.kernel.sched.vtc import EqualShares

PROCESS, MEMORY = "process", "memory"  # levels of `SetPolicy`
POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (FirstCome, ByPriority, EqualShares, AttainedService, CriticalPath, FairFinish)
}
DEFAULT = FairFinish.name


def policy_of(name: str, parameters: Mapping[str, float], costs: Costs) -> Policy:
    """A new one. Raises InvalidArgument: nobody knows the name or a parameter, or its value is too small."""
    demand_policy(name, parameters)
    chosen = POLICIES[name]
    return FairFinish(costs) if chosen is FairFinish else chosen(**parameters)


def demand_policy(name: str, parameters: Mapping[str, float]) -> None:
    """Raises InvalidArgument as `policy_of` does."""
    if name not in POLICIES:
        raise InvalidArgument(f"no process policy is called {name[:64]!r}: there are {', '.join(POLICIES)}", policy=name[:64])
    known = POLICIES[name].parameters
    for key, value in parameters.items():
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InvalidArgument(f"{name} has no parameter {key[:64]!r}: {has}", policy=name, parameter=key[:64])
        if not (math.isfinite(value) and value >= known[key].least):
            raise InvalidArgument(
                f"{key} must be a number of {known[key].least:g} or more, not {value:g}", policy=name, parameter=key
            )
