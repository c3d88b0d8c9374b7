"""The batch level of scheduling: when a step begins (docs/scheduling.md).

immediate   as soon as a call is ready
cohort      held a little for programs that the last step answered: the default
k-or-t      with K calls, or after T: in the simulator only
rate        with as many calls as their rate makes best: in the simulator only
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.sched import parameter
from vllm_symphony.kernel.sched.batch.cohort import Cohort
from vllm_symphony.kernel.sched.batch.immediate import Immediate
from vllm_symphony.kernel.sched.batch.k_or_t import KOrT
from vllm_symphony.kernel.sched.batch.policy import BatchPolicy
from vllm_symphony.kernel.sched.batch.rate import Rate

POLICIES: Mapping[str, type[BatchPolicy]] = {policy.name: policy for policy in (Immediate, Cohort, KOrT, Rate)}
DEFAULT = Cohort.name


def make(name: str, parameters: Mapping[str, float] = {}) -> BatchPolicy:
    """The policy of this name. Raises InvalidArgument: there is none, it has no such parameter, or the value is too small."""
    if name not in POLICIES:
        raise InvalidArgument(f"no batch policy is called {name[:64]!r}: there are {', '.join(POLICIES)}", policy=name[:64])
    chosen = POLICIES[name]
    parameter.demand(name, chosen.parameters, parameters)
    return chosen(**parameters)
