"""Step plan: all device work of a step beside vLLM's own (engine/plan.py).

Travels on `SchedulerOutput.symphony` to every worker; its answer, `StepResult`, comes back on `ModelRunnerOutput.symphony`. Both
are plain dataclasses and survive the pickle of vLLM's multi-process executor.
Source: vllm/v1/core/sched/output.py, vllm/v1/outputs.py (0.32): dataclasses without slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Predicate

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class RowPlan:
    """What one request of the step wants beside a sampled token.

    `outputs` are offsets into the tokens that the step computes for the request; `keep` maps some of them to row ids. `deltas` are
    (offset, delta) runs that move the rotary positions, ascending. `history` is what the penalties count, when it is not what
    vLLM would count; `draw_seed` re-keys the request's random generator for this position.
    """

    outputs: tuple[int, ...] = ()
    top_k: int = 0
    temperature: float = 1.0
    entropy: bool = False
    keep: tuple[tuple[int, int], ...] = ()
    deltas: tuple[tuple[int, int], ...] = ()
    until: Predicate | None = None
    until_row: int = 0  # row id under which the row that fired is kept
    num_generated: int = 0  # tokens of this call before this step
    draw_seed: int | None = None
    penalty_from: int | None = None  # index in the file from where presence and frequency count
    penalty_row: bool = False  # `penalty_from` differs from what vLLM would count
    given: tuple[int, ...] = ()  # tokens in place of the last sampled one, which nobody looked at


@dataclass(slots=True)
class StepPlan:
    rows: dict[str, RowPlan] = field(default_factory=dict)  # by request id
    drop: list[int] = field(default_factory=list)  # row ids that nobody can ask for any more

    def __bool__(self) -> bool:
        return bool(self.rows or self.drop)


@dataclass(slots=True)
class StepResult:
    """Distributions of a step, packed: one row for each entry of `where` (request id, offset).

    numbers [num_rows, 3 + k]: logsumexp, logsumexp at the row's temperature, entropy, then k log-probabilities; ids [num_rows, k].
    """

    where: list[tuple[str, int]]
    numbers: np.ndarray
    ids: np.ndarray
    fired: frozenset[str] = frozenset()
