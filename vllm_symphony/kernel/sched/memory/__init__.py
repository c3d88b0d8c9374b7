"""The memory level of scheduling: who holds pages while nobody computes with them (docs/scheduling.md).

lru         least recently used, blind to programs: the baseline
infercept   least waste of memory over time, from measured costs and tools' histories
ttl         kept for as long as that is likely to pay
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.sched import parameter
from vllm_symphony.kernel.sched.memory.infercept import InferCept
from vllm_symphony.kernel.sched.memory.lru import LeastRecentlyUsed
from vllm_symphony.kernel.sched.memory.policy import MemoryPolicy
from vllm_symphony.kernel.sched.memory.ttl import TimeToLive
from vllm_symphony.kernel.sched.predict import Predictor

Made = type[LeastRecentlyUsed] | type[InferCept] | type[TimeToLive]
POLICIES: Mapping[str, Made] = {policy.name: policy for policy in (LeastRecentlyUsed, InferCept, TimeToLive)}
DEFAULT = InferCept.name


def make(name: str, predictor: Predictor, parameters: Mapping[str, float] = {}) -> MemoryPolicy:
    """The policy of this name. Raises InvalidArgument: there is none, it has no such parameter, or the value is too small."""
    if name not in POLICIES:
        raise InvalidArgument(f"no memory policy is called {name[:64]!r}: there are {', '.join(POLICIES)}", policy=name[:64])
    chosen = POLICIES[name]
    parameter.demand(name, chosen.parameters, parameters)
    made: Callable[..., MemoryPolicy] = chosen
    return made(**parameters) if chosen is LeastRecentlyUsed else made(predictor, **parameters)
