"""Generators of traces (simulate/workload.py): the shapes that published schedulers were measured on, from a seed.

    documents      questions over popular documents        RAGCache (arXiv 2404.12457)
    agents         ReAct loops with short tool calls       Pie (SOSP '25, table 3)
    toolgaps       long agents with long-tailed tools      Continuum (arXiv 2511.02230)
    mix            chat, function calling, tree search     Autellix (arXiv 2502.13965, table 1)
    fair           map-reduce of three sizes, with voting  Justitia (arXiv 2510.17015, section 5)
    interruptions  six kinds of augmentation               InferCept (arXiv 2402.01869, table 1)

Arrivals are Poisson at `rate` programs a second (0: all at once); lengths are log-normal around the published means, so that some
are long. `scale` divides lengths of prompts and answers, for a small machine; it leaves counts and gaps as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log
from random import Random
from typing import Any

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.simulate.trace import Gap, Script, Singles, Step, Trace, Turn


@dataclass(frozen=True, slots=True)
class Shape:
    """How many programs, how fast, how long their texts, from which seed."""

    num_programs: int = 200
    rate: float = 1.0
    scale: float = 1.0
    seed: int = 0
    num_principals: int = 1


class Dice:
    """Draws from one seed."""

    def __init__(self, shape: Shape) -> None:
        self.random = Random(shape.seed)
        self.shape = shape
        self._now_s = 0.0

    def arrival(self) -> float:
        """The next one's time."""
        if self.shape.rate:
            self._now_s += self.random.expovariate(self.shape.rate)
        return self._now_s

    def principal(self) -> str:
        return f"user{self.random.randrange(self.shape.num_principals)}"

    def around(self, mean: float, spread: float = 0.5) -> float:
        """Log-normal of that mean; `spread` is the deviation of its logarithm."""
        return self.random.lognormvariate(log(mean) - spread * spread / 2, spread)

    def tokens(self, mean: float, spread: float = 0.5) -> int:
        return max(1, round(self.around(mean / self.shape.scale, spread)))

    def times(self, mean: float, spread: float = 0.5) -> int:
        """How often."""
        return max(1, round(self.around(mean, spread)))

    def zipf(self, count: int, power: float) -> int:
        """0 the most often."""
        weights = [(i + 1) ** -power for i in range(count)]
        return self.random.choices(range(count), weights)[0]


def documents(d: Dice, num_documents: int = 100, power: float = 1.1) -> Script:
    """Row 1: a question over one of many documents, by popularity. All questions on a document begin with all of it."""
    which = d.zipf(num_documents, power)
    length = max(16, round(Random(which).lognormvariate(log(4000), 0.4) / d.shape.scale))
    return Script(d.arrival(), "document", (Turn(d.tokens(60), d.tokens(64)),), d.principal(), (f"document{which}", length))


def agents(d: Dice) -> Script:
    """Row 2: eight tool calls of 100 ms, 16 tokens between."""
    steps: list[Step] = [Turn(d.tokens(512, 0.2), 16)]
    for _ in range(8):
        steps += [Gap("search", 0.1), Turn(d.tokens(64, 0.3), 16)]
    return Script(d.arrival(), "agent", tuple(steps), d.principal())


def toolgaps(d: Dice) -> Script:
    """Row 8: some forty turns; a tool's time is log-normal with a long tail, and each tool has its own."""
    tools = {"read": 0.3, "grep": 0.8, "test": 6.0, "build": 12.0}
    steps: list[Step] = [Turn(d.tokens(3000, 0.4), d.tokens(90))]
    for _ in range(d.times(39, 0.3)):
        tool = d.random.choices(list(tools), (5, 3, 2, 1))[0]
        steps += [Gap(tool, d.around(tools[tool], 1.0)), Turn(d.tokens(220, 0.8), d.tokens(90))]
    return Script(d.arrival(), "coder", tuple(steps), d.principal())


def mix(d: Dice) -> Script:
    """Row 9: chat of 6.7 calls, function calling of 10.8, tree search of 160 in waves of branches."""
    name = d.random.choices(("chat", "functions", "tree"), (0.6, 0.35, 0.05))[0]
    if name == "chat":
        steps: list[Step] = [Turn(d.tokens(256), d.tokens(277))]
        for _ in range(d.times(6.7) - 1):
            steps += [Gap("user", d.around(5.0, 0.8)), Turn(d.tokens(64), d.tokens(277))]
    elif name == "functions":
        steps = [Turn(d.tokens(735), d.tokens(34))]
        for _ in range(d.times(10.8) - 1):
            steps += [Gap("function", d.around(0.3, 0.8)), Turn(d.tokens(120), d.tokens(34))]
    else:
        width = 5
        steps = [Turn(d.tokens(467), d.tokens(73))]
        steps += [Turn(d.tokens(60), d.tokens(73), width) for _ in range(max(1, round(d.times(160, 0.3) / width)))]
    return Script(d.arrival(), name, tuple(steps), d.principal())


def fair(d: Dice) -> Script:
    """Row 10: small, medium and large map-reduces, self-consistency and tree of thought; many are small."""
    name = d.random.choices(("small", "medium", "large", "vote", "tree"), (0.4, 0.2, 0.1, 0.2, 0.1))[0]
    if name == "vote":
        steps: tuple[Step, ...] = (Turn(d.tokens(300), 1), Turn(0, d.tokens(256), 8), Turn(d.tokens(200), d.tokens(32)))
    elif name == "tree":
        steps = (
            Turn(d.tokens(300), 1),
            *(Turn(d.tokens(40), d.tokens(128), 4) for _ in range(3)),
            Turn(d.tokens(200), d.tokens(64)),
        )
    else:
        parts = {"small": 2, "medium": 6, "large": 20}[name]
        steps = (Turn(d.tokens(100), 1), Turn(d.tokens(1200), d.tokens(160), parts), Turn(d.tokens(160 * parts), d.tokens(300)))
    return Script(d.arrival(), name, steps, d.principal())


def lockstep(d: Dice) -> Script:
    """Programs that ask for each token by a call, and compute a millisecond between two."""
    return Script(d.arrival(), "lockstep", (Turn(d.tokens(64), 1), Singles(200, d.around(0.001, 0.2))), d.principal())


KINDS = {  # seconds of an interruption, how many a program has
    "calculator": (90e-6, 3.75), "answer": (0.69, 2.5), "world": (0.09, 28.0), "chat": (28.6, 4.5), "image": (20.0, 6.9),
    "speech": (17.2, 6.9),
}  # fmt: skip


def interruptions(d: Dice) -> Script:
    """Row 11: InferCept's kinds, as many of each."""
    name = d.random.choice(list(KINDS))
    seconds, count = KINDS[name]
    steps: list[Step] = [Turn(d.tokens(1000, 0.6), d.tokens(60))]
    for _ in range(d.times(count, 0.3)):
        steps += [Gap(name, d.around(seconds, 0.4)), Turn(d.tokens(40), d.tokens(60))]
    return Script(d.arrival(), name, tuple(steps), d.principal())


WORKLOADS: Mapping[str, Callable[[Dice], Script]] = {
    "documents": documents, "agents": agents, "toolgaps": toolgaps, "mix": mix, "fair": fair, "interruptions": interruptions,
    "lockstep": lockstep,
}  # fmt: skip


def generate(name: str, shape: Shape) -> Trace:
    """A trace of the workload `name`. Raises InvalidArgument for one that there is not, or a shape that is none."""
    if name not in WORKLOADS:
        raise InvalidArgument(f"no such workload: {name} (there are {', '.join(WORKLOADS)})")
    if shape.num_programs < 1 or shape.rate < 0 or shape.scale <= 0 or shape.num_principals < 1:
        raise InvalidArgument(f"programs and principals must be 1 or more, the rate 0 or more, the scale above 0, not {shape}")
    dice = Dice(shape)
    scripts = tuple(WORKLOADS[name](dice) for _ in range(shape.num_programs))
    about: dict[str, Any] = {"rate": shape.rate, "scale": shape.scale, "principals": shape.num_principals}
    return Trace(name, scripts, shape.seed, about)
