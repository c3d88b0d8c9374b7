"""Plain requests and programs share a step by weight (engine/share.py).

    a step holds    rows (max_num_seqs)     tokens (max_num_batched_tokens)
    plain wants     ##########              ############################
    programs want   ######                  ###
                    each its part           programs have all they want, the rest is plain's

Of what is short, a side that wants more gets its weight's part; what one side leaves, the other takes. What a step could not divide
evenly is *owed*, and paid in the next steps: at most one step's worth, and a side that had all it wanted is owed nothing, so that
nobody banks credit while it is idle. Hence, as long as both want more, each has its part up to one step.
One ledger for each thing that can be short. Rejected: one virtual counter over all of them, as in fair queueing over tokens; a long
prompt of one side would be paid back in rows, so its streams would stand still for hundreds of steps.
Source: deficit round robin (Shreedhar, Varghese, SIGCOMM 1995) with two flows; what counts as service is Sheng et al., "Fairness in
serving large language models" (OSDI 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from vllm_symphony.errors import InvalidArgument

Who = TypeVar("Who")


class Pair(NamedTuple):
    """A number for each side."""

    plain: int
    programs: int


class Ledger:
    """One thing that can be short. `part`: how much of it belongs to programs, above 0 and below 1."""

    def __init__(self, part: float) -> None:
        self.part = part
        self.owed = 0.0  # to programs; below 0: to plain requests

    def divide(self, capacity: int, wants: Pair) -> Pair:
        """What each side gets of `capacity` in this step: all of it is given out, or all wants are met."""
        if sum(wants) <= capacity:
            self.owed = 0.0
            return wants
        fair = capacity * self.part + self.owed
        programs = min(max(round(fair), capacity - wants.plain, 0), wants.programs, capacity)
        got = Pair(capacity - programs, programs)
        short = got.plain < wants.plain and got.programs < wants.programs
        self.owed = min(max(fair - programs, -capacity), capacity) if short else 0.0
        return got


@dataclass(frozen=True, slots=True)
class Row(Generic[Who]):
    """One request in a step and the tokens that it could compute."""

    who: Who
    is_program: bool
    num_tokens: int


def cut(ledger: Ledger, budget: int, rows: Sequence[Row[Who]], step_tokens: int = 1) -> dict[Who, int]:
    """The most tokens that those rows may compute that do not get all they want; in each side the first go first. Rows of up to
    `step_tokens` are never cut: who decodes goes on beside those who read a long prompt."""
    left = budget - sum(row.num_tokens for row in rows)
    if left >= 0:
        ledger.owed = 0.0
        return {}
    long = [row for row in rows if row.num_tokens > step_tokens]
    programs = sum(row.num_tokens for row in long if row.is_program)
    wants = Pair(sum(row.num_tokens for row in long) - programs, programs)
    parts = list(ledger.divide(max(0, left + sum(wants)), wants))
    cuts: dict[Who, int] = {}
    for row in long:
        granted = min(row.num_tokens, parts[row.is_program])
        parts[row.is_program] -= granted
        if granted < row.num_tokens:
            cuts[row.who] = granted
    return cuts


class Share:
    """The sides' weights, and who is owed what.

    Raises:
        InvalidArgument: a weight is not a number above 0.
    """

    def __init__(self, plain: float = 1.0, programs: float = 1.0) -> None:
        for name, weight in (("plain", plain), ("programs", programs)):
            if not (math.isfinite(weight) and weight > 0):
                raise InvalidArgument(f"the weight of {name} must be a number above 0, not {weight:g}")
        self.plain, self.programs = plain, programs
        self.part = programs / (plain + programs)
        self.rows, self.tokens = Ledger(self.part), Ledger(self.part)
