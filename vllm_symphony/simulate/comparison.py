"""The same trace under several rules (simulate/comparison.py): what `symphony simulate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_symphony.kernel.effect import SetPolicy
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.simulate.player import Host, Played, Player
from vllm_symphony.simulate.summary import Summary, summarise
from vllm_symphony.simulate.trace import Trace


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy for each level, as name or name:parameter=value,..."""

    process: str = catalogue.DEFAULTS[catalogue.PROCESS]
    memory: str = catalogue.DEFAULTS[catalogue.MEMORY]
    batch: str = catalogue.DEFAULTS[catalogue.BATCH]

    @property
    def effects(self) -> tuple[SetPolicy, ...]:
        chosen = {catalogue.PROCESS: self.process, catalogue.MEMORY: self.memory, catalogue.BATCH: self.batch}
        return tuple(catalogue.parsed(level, text, simulated=True) for level, text in chosen.items())

    @property
    def label(self) -> str:
        return f"{self.process} + {self.memory} + {self.batch}"


@dataclass(frozen=True, slots=True)
class Result:
    """A play and its numbers."""

    rules: Rules
    seed: int
    played: Played
    summary: Summary

    def as_dict(self) -> dict[str, Any]:
        trace, summary = self.played.trace, self.summary
        return {
            "trace": trace.name, "seed": self.seed, "process": self.rules.process, "memory": self.rules.memory,
            "batch": self.rules.batch, **summary.as_dict(),
            "samples": [outcome.completion_s for outcome in self.played.outcomes if not outcome.failure],
        }  # fmt: skip


def compare(traces: Sequence[Trace], host: Host, rules: Sequence[Rules]) -> list[Result]:
    """Each trace under each of the rules, in this order."""
    effects = [one.effects for one in rules]  # raises before anything is played
    results = []
    for trace in traces:
        for one, given in zip(rules, effects, strict=True):
            played = Player(trace, host, given, seed=trace.seed).play()
            results.append(Result(one, trace.seed, played, summarise(played)))
    return results
