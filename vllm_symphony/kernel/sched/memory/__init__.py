"""The memory level of scheduling: who holds pages while nobody computes with them (docs/scheduling.md).

lru         least recently used, blind to programs: the baseline
infercept   least waste of memory over time, from measured costs and tools' histories
ttl         kept for as long as that is likely to pay
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.sched.memory.infercept import InferCept
from vllm_symphony.kernel.sched.memory.lru import LeastRecentlyUsed
from vllm_symphony.kernel.sched.memory.policy import MemoryPolicy
from vllm_symphony.kernel.sched.memory.ttl import TimeToLive
from vllm_symphony.kernel.sched.predict import Predictor

DEFAULT = "infercept"
_MAKE: Mapping[str, Callable[..., MemoryPolicy]] = {
    "lru": lambda predictor, **p: LeastRecentlyUsed(**p),
    "infercept": InferCept,
    "ttl": TimeToLive,
}
PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "lru": {"stale_s": "seconds without a use from which any call may have a file's pages (1)"},
    "infercept": {"cold": "gaps of a kind before their history is believed (8)"},
    "ttl": {"cold": "gaps of a kind before their history is believed (100)"},
}


def make(name: str, predictor: Predictor, parameters: Mapping[str, float] = {}) -> MemoryPolicy:
    """The policy of this name. Raises InvalidArgument: there is none, or it has no such parameter."""
    if name not in _MAKE:
        raise InvalidArgument(f"no such memory policy: {name} ({', '.join(_MAKE)})", name=name)
    unknown = parameters.keys() - PARAMETERS[name].keys()
    if unknown:
        known = ", ".join(PARAMETERS[name])
        raise InvalidArgument(f"{name} has no parameter {min(unknown)} ({known})", name=min(unknown))
    for parameter, value in parameters.items():
        if not 0 <= value < float("inf"):
            raise InvalidArgument(f"{name}: {parameter} must be 0 or more and finite, not {value}", name=parameter)
    return _MAKE[name](predictor, **parameters)
