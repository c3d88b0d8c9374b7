"""A number of a policy that an operator may choose (kernel/sched/parameter.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from vllm_symphony.errors import InvalidArgument


class Parameter(NamedTuple):
    """It must be at least `least`. `help`: half a line, for flags and `symphony info`."""

    default: float
    least: float
    help: str


def demand(policy: str, known: Mapping[str, Parameter], given: Mapping[str, float]) -> None:
    """Raises InvalidArgument: a parameter that the policy has not, or a value that is no number or too small."""
    for name, value in given.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InvalidArgument(f"{policy} has no parameter {name[:64]!r}: {has}", policy=policy, parameter=name[:64])
        if not (math.isfinite(value) and value >= known[name].least):
            raise InvalidArgument(
                f"{name} of {policy} must be a number of {known[name].least:g} or more, not {value:g}",
                policy=policy,
                parameter=name,
            )
