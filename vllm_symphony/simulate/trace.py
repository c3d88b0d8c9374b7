"""A trace: which programs arrive when, and what each does (simulate/trace.py). Its file is JSON lines (docs/simulator.md).

    {"trace": "toolgaps", "seed": 3}                                                       the first line: where it comes from
    {"at": 0.31, "principal": "ann", "name": "chat", "steps": [[256, 277], ["user", 4.2], [80, 277]]}      then a program each
    {"at": 0.44, "principal": "bob", "name": "tree", "prefix": ["manual", 900], "steps": [[467, 73, 8]]}

A step is a call [prompt, decode] or [prompt, decode, forks], a gap [tool, seconds], or calls of a token each ["each", tokens,
seconds]. No policy sees it: it is what happens, and
what is to come is known to the player alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, TextIO

from vllm_symphony.errors import InvalidArgument

EACH, CLIENT = "each", "client"
FIELDS = {"at", "principal", "name", "steps", "prefix", "killed", "priority"}


@dataclass(frozen=True, slots=True)
class Turn:
    """A call of the model: `prompt` tokens are appended to the program's context, `decode` are generated after them. With `forks`
    so many branches do this at once, each on a copy of the context that is closed afterwards."""

    prompt: int
    decode: int
    forks: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """The program waits for a tool."""

    tool: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Singles:
    """`num_tokens` one by one, a call each; between two calls the program's own code runs for `code_s`."""

    num_tokens: int
    code_s: float = 0.0


Step = Turn | Gap | Singles


@dataclass(frozen=True, slots=True)
class Script:
    """A program. `prefix`: a named file of so many tokens that its context begins with, shared by all programs that name it.
    `killed_s`: somebody kills it so long after its arrival, if it has not ended. `priority`: what it declares."""

    at_s: float
    name: str
    steps: tuple[Step, ...]
    principal: str = "ann"
    prefix: tuple[str, int] | None = None
    killed_s: float | None = None
    priority: int = 0

    @property
    def turns(self) -> Iterator[Turn]:
        return (step for step in self.steps if isinstance(step, Turn))

    @property
    def num_calls(self) -> int:
        return sum(max(1, turn.forks) for turn in self.turns) + self.num_singles

    @property
    def num_tokens(self) -> int:
        """That the model decodes."""
        return sum(turn.decode * max(1, turn.forks) for turn in self.turns) + self.num_singles

    @property
    def num_singles(self) -> int:
        """Calls of a token each."""
        return sum(step.num_tokens for step in self.steps if isinstance(step, Singles))


@dataclass(frozen=True, slots=True)
class Trace:
    """Programs in the order of their arrival."""

    name: str
    scripts: tuple[Script, ...]
    seed: int = 0
    about: dict[str, Any] = field(default_factory=dict)  # parameters of its generator

    def squeezed(self, factor: float) -> Trace:
        """The same programs, arriving `factor` times as fast."""
        return replace(self, scripts=tuple(replace(s, at_s=s.at_s / factor) for s in self.scripts))

    def by_client(self, rtt_s: float) -> Trace:
        """The same programs as an ordinary client runs them: each call is a request of its own, so the round trip to the client
        lies between a call's end and whatever comes next."""
        return replace(self, scripts=tuple(replace(s, steps=_far(s.steps, rtt_s)) for s in self.scripts))


def _far(steps: tuple[Step, ...], rtt_s: float) -> tuple[Step, ...]:
    """A tool runs at the client's: its answer comes a round trip after the call's end and its own time."""
    found: list[Step] = []
    for step, before in zip(steps, (None, *steps), strict=False):
        if isinstance(step, Gap):
            found.append(Gap(step.tool, step.seconds + rtt_s))
            continue
        if rtt_s and isinstance(before, Turn | Singles):
            found.append(Gap(CLIENT, rtt_s))
        found.append(Singles(step.num_tokens, step.code_s + rtt_s) if isinstance(step, Singles) else step)
    return tuple(found)


def write(trace: Trace, file: TextIO) -> None:
    """As JSON lines."""
    file.write(json.dumps({"trace": trace.name, "seed": trace.seed, **trace.about}) + "\n")
    for script in trace.scripts:
        file.write(json.dumps(line_of(script), separators=(",", ":")) + "\n")


def read(lines: Iterable[str]) -> Trace:
    """The inverse of `write`; blank lines are passed over.

    Raises:
        InvalidArgument: a line is none of the format; says which and why.
    """
    scripts: list[Script] = []
    head: dict[str, Any] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise TypeError("it is no JSON object")
            if head is None:
                head = {**value}
                head["trace"], head["seed"] = str(value["trace"]), int(value.get("seed", 0))
            else:
                scripts.append(_script(value))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidArgument(f"line {number} of the trace: {type(error).__name__}: {error}", line=number) from None
    if head is None:
        raise InvalidArgument('the trace is empty: its first line says {"trace": NAME}')
    scripts.sort(key=lambda script: script.at_s)
    about = {key: value for key, value in head.items() if key not in ("trace", "seed")}
    return Trace(head["trace"], tuple(scripts), head["seed"], about)


def line_of(script: Script) -> dict[str, Any]:
    """A program as its line of the file has it."""
    steps = [_words(step) for step in script.steps]
    line = {"at": round(script.at_s, 6), "principal": script.principal, "name": script.name, "steps": steps}
    if script.prefix is not None:
        line["prefix"] = list(script.prefix)
    if script.killed_s is not None:
        line["killed"] = script.killed_s
    if script.priority:
        line["priority"] = script.priority
    return line


def _words(step: Step) -> list[Any]:
    if isinstance(step, Gap):
        return [step.tool, round(step.seconds, 6)]
    if isinstance(step, Singles):
        return [EACH, step.num_tokens, round(step.code_s, 6)]
    return [step.prompt, step.decode, step.forks] if step.forks else [step.prompt, step.decode]


def _script(value: dict[str, Any]) -> Script:
    unknown = value.keys() - FIELDS
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
    prefix = None
    if (given := value.get("prefix")) is not None:
        prefix = (str(given[0]), _count(given[1], least=1))
    killed_s = _seconds(value["killed"]) if value.get("killed") is not None else None
    steps = tuple(map(_step, value["steps"]))
    if not any(isinstance(step, Turn) for step in steps):
        raise ValueError("a program without a call")
    first = next(step for step in steps if isinstance(step, Turn))
    if prefix is None and (first.forks or not first.prompt):
        raise ValueError("the first call of a program without a prefix needs a prompt, and cannot fork")
    principal, priority = str(value.get("principal", "ann")), int(value.get("priority", 0))
    return Script(_seconds(value["at"]), str(value["name"]), steps, principal, prefix, killed_s, priority)


def _step(value: list[Any]) -> Step:
    if isinstance(value[0], str):
        if value[0] == EACH and len(value) == 3:
            return Singles(_count(value[1], least=1), _seconds(value[2]))
        tool, seconds = value
        return Gap(tool, _seconds(seconds))
    prompt, decode, *more = value
    (forks,) = more or (0,)
    return Turn(_count(prompt), _count(decode, least=1), _count(forks))


def _count(value: Any, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"a count of tokens or forks is a whole number from {least} on, not {value!r}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"a time is a number of seconds from 0 on, not {value!r}")
    return float(value)
