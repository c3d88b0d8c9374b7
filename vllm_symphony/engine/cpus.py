"""Which CPUs programs run on (engine/cpus.py).

fewer than 4    all of them: priorities must do (nice +10, SCHED_IDLE for those that burn: runtime/meter.py)
4 and more      the upper half of those that this process may use; the rest are the engine's alone
told            SYMPHONY_PROGRAM_CPUS, as `0,2-5`; `all`
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from vllm_symphony.errors import InvalidArgument

VARIABLE = "SYMPHONY_PROGRAM_CPUS"
_ENOUGH = 4


def program_cpus(ours: Iterable[int], environment: Mapping[str, str] = os.environ) -> list[int]:
    """Of the CPUs that are `ours`. Raises InvalidArgument when what we were told is no list, or has none of them."""
    cpus, told = sorted(ours), environment.get(VARIABLE, "")
    if told == "all":
        return cpus
    if told:
        wanted = _listed(told)
        found = [cpu for cpu in cpus if cpu in wanted]
        if not found:
            raise InvalidArgument(f"{VARIABLE}={told}: this process may use {cpus[0]} to {cpus[-1]}, and none of these")
        return found
    return cpus if len(cpus) < _ENOUGH else cpus[len(cpus) // 2 :]


def _listed(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found.update(range(int(first), int(last or first) + 1))
        except ValueError:
            raise InvalidArgument(f"{VARIABLE}={text}: a list of CPUs looks like 0,2-5, or is `all`") from None
    return found
