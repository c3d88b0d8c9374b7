"""How long a step takes (simulate/steptime.py): five coefficients, none negative, fitted from what a real engine took.

    seconds = step_s + row_s rows + token_s tokens + read_s sum(context) + attend_s sum(tokens x context)
              weights    sampling   matrix products   decoding rows read   the attention of prefill
              read once             of every token    all their keys       (tokens of a chunk that is no single one)

`fit` minimises the relative errors' absolute values, so that a step during which the machine did something else counts for little:
non-negative least squares, reweighted by 1/|error| a few times. With five columns the active set is found by looking at all 31.
Source: Lawson and Hanson, "Solving Least Squares Problems", ch. 23; the terms are those of Vidur (arXiv 2405.05465, section 4).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_symphony.errors import InvalidArgument

ROUNDS, SMALLEST = 20, 1e-4


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one row of a batch computes: `num_tokens` after `context` others."""

    num_tokens: int
    context: int


class Load(NamedTuple):
    """What a step's time depends on: rows, tokens, contexts of decoding rows together, tokens x context of the others."""

    rows: int
    tokens: int
    reads: int
    pairs: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step by what is in it. The defaults are about those of an 8B model in bfloat16 on one H100."""

    step_s: float = 0.0065
    row_s: float = 4e-6
    token_s: float = 2.4e-5
    read_s: float = 4.4e-8
    attend_s: float = 1.1e-9

    def of(self, batch: Sequence[Chunk]) -> float:
        """Of one step."""
        return self.of_load(load_of(batch))

    def of_load(self, load: Load) -> float:
        """Of one step with so much in it."""
        return (
            self.step_s
            + self.row_s * load.rows
            + self.token_s * load.tokens
            + self.read_s * load.reads
            + self.attend_s * load.pairs
        )

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def load(path: Path) -> StepTime:
    """Raises InvalidArgument when the file has not exactly the coefficients, or a negative one."""
    names = [field.name for field in fields(StepTime)]
    try:
        values = json.loads(path.read_text())
        if sorted(values) != sorted(names) or not all(isfinite(v) and v >= 0 for v in values.values()):
            raise ValueError(f"the coefficients are {', '.join(names)}, finite and not negative")
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgument(f"{path} has no step times (python -m benchmarks calibrate writes them): {error}") from None
    return StepTime(**values)


def load_of(batch: Sequence[Chunk]) -> Load:
    """What is in a batch. A chunk of several tokens sees its own, too: half of them on average."""
    reads = sum(chunk.context for chunk in batch if chunk.num_tokens == 1)
    pairs = sum(chunk.num_tokens * (chunk.context + chunk.num_tokens / 2) for chunk in batch if chunk.num_tokens > 1)
    return Load(len(batch), sum(chunk.num_tokens for chunk in batch), reads, pairs)


def fit(steps: Sequence[tuple[Sequence[Chunk], float]]) -> StepTime:
    """The coefficients that give these (batch, seconds) best, each at least 0."""
    took = np.array([seconds for _, seconds in steps])
    matrix = np.array([(1.0, *load_of(batch)) for batch, _ in steps]) / took[:, None]
    scale = np.abs(matrix).max(axis=0)
    scale[scale == 0] = 1.0
    matrix /= scale
    weights = np.ones(len(steps))
    found = np.zeros(matrix.shape[1])
    for _ in range(ROUNDS):
        found = _non_negative(matrix * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix @ found - 1), SMALLEST))
    return StepTime(*(float(v) for v in found / scale))


def _non_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The x >= 0 with the least |matrix x - wanted|."""
    best, least = np.zeros(matrix.shape[1]), float((wanted**2).sum())
    for size in range(1, matrix.shape[1] + 1):
        for chosen in map(list, combinations(range(matrix.shape[1]), size)):
            found = np.linalg.lstsq(matrix[:, chosen], wanted, rcond=None)[0]
            error = float(((matrix[:, chosen] @ found - wanted) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(matrix.shape[1]), error
                best[chosen] = found
    return best


def errors(model: StepTime, steps: Sequence[tuple[Sequence[Chunk], float]]) -> list[float]:
    """How much of the time each prediction is off: |predicted - took| / took."""
    return [abs(model.of(batch) - took) / took for batch, took in steps]
