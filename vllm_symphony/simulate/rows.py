"""The rows of docs/scheduling.md (simulate/rows.py): each workload under several policies, as a table and as pictures.

    python -m vllm_symphony.simulate.rows docs/pictures --programs 1000
    python -m vllm_symphony.simulate.rows /tmp/pictures --programs 100 --row fair --row agents

Same seed, same pictures, to the byte. Texts are a quarter as long as published, and so is the cache: a step takes what it takes on
the machine of docs/simulator.md, and a row takes minutes instead of an hour.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_symphony.simulate.bars import Bar, draw
from vllm_symphony.simulate.comparison import Rules
from vllm_symphony.simulate.player import Host, Played, Player
from vllm_symphony.simulate.probe import saturation, working_set
from vllm_symphony.simulate.summary import summarise
from vllm_symphony.simulate.trace import Singles, Trace
from vllm_symphony.simulate.workload import Shape, generate

SCALE, LATE_S = 4.0, 0.05
PROCESS = ("fcfs", "vtc", "plas", "atlas", "justitia", "shortest")
HOST = Host(num_pages=10_000)
CLIENT = Rules("fcfs", "lru", "immediate")  # what an ordinary server does: prefixes are cached, least recently used go
Found = Iterator[tuple[str, Bar]]  # picture, bar


@dataclass(frozen=True, slots=True)
class Row:
    """Which plays there are of how many programs."""

    help: str
    play: Callable[[int], Found]


def played(trace: Trace, host: Host, rules: Rules) -> Played:
    return Player(trace, host, rules.effects, seed=trace.seed).play()


def made(name: str, num: int, rate: float = 0.0) -> Trace:
    return generate(name, Shape(num, rate, SCALE))


def ordered(name: str, load: float, policies: Sequence[str]) -> Callable[[int], Found]:
    """Mean and 95th percentile of completion, by process policy."""

    def play(num: int) -> Found:
        trace = made(name, num, load * saturation(made(name, num), HOST))
        for policy in policies:
            completion = summarise(played(trace, HOST, Rules(process=policy))).completion_s
            yield f"{name}: mean completion, seconds", Bar(policy, completion.mean)
            yield f"{name}: 95th percentile of completion, seconds", Bar(policy, completion.p95)

    return play


def pressed(name: str, pressures: Sequence[float], host: Host = HOST) -> Callable[[int], Found]:
    """Programs a second and the time to a first token, by memory policy and pressure on pages."""

    def play(num: int) -> Found:
        trace = made(name, num)
        pages = working_set(trace, host)
        for pressure in pressures:
            tight = replace(host, num_pages=max(1, round(pages / pressure)))
            for label, rules in (("client", CLIENT), *((m, Rules(memory=m)) for m in ("lru", "ttl", "infercept"))):
                summary = summarise(played(trace, tight, rules))
                yield f"{name}: programs a second", Bar(f"{label}, pressure {pressure:g}", summary.programs_s)
                yield f"{name}: first token, seconds", Bar(f"{label}, pressure {pressure:g}", summary.first_token_s.mean)

    return play


def agents(num: int) -> Found:
    """At the server, and by clients of several distances."""
    trace = made("agents", num, 0.5 * saturation(made("agents", num), HOST))
    yield "agents: mean completion, seconds", Bar("at the server", summarise(played(trace, HOST, Rules())).completion_s.mean)
    for rtt_s in (0.0, 0.01, 0.05):
        mean = summarise(played(trace.by_client(rtt_s), HOST, CLIENT)).completion_s.mean
        yield "agents: mean completion, seconds", Bar(f"client, {rtt_s * 1000:g} ms away", mean)


def batching(num: int, sizes: Sequence[int] = (8, 32, 128)) -> Found:
    """Tokens a second of programs in lock step: all alike, and the others where one answers late every time."""
    for size in sizes:
        alike = generate("lockstep", Shape(size, 0.0, SCALE))
        first, *others = alike.scripts
        late = replace(alike, scripts=(replace(first, steps=(first.steps[0], Singles(60, LATE_S))), *others))
        for batch in ("immediate", "cohort", "k-or-t", "rate"):
            for label, trace in (("all alike", alike), ("one late", late)):
                outcomes = played(trace, HOST, Rules(batch=batch)).outcomes[1:]
                rates = [o.script.num_tokens / s for o in outcomes if (s := o.completion_s)]
                yield f"batching, {label}: tokens a second of a program", Bar(f"{batch}, {size}", sum(rates) / len(rates))


ROWS = {
    "mix": Row("chat, functions, trees at 0.9 of the load that the device can do", ordered("mix", 0.9, PROCESS)),
    "fair": Row("map-reduces and votes, at 1.5 of it", ordered("fair", 1.5, PROCESS)),
    "toolgaps": Row("some forty turns with tools between", pressed("toolgaps", (0.5, 2.0, 4.0))),
    "documents": Row("questions on 100 documents", pressed("documents", (2.0,))),
    "agents": Row("tool calls, at the server and from afar", agents),
    "batching": Row("token by token", batching),
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vllm_symphony.simulate.rows", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--programs", type=int, default=1000, metavar="N", help="of each row (default: 1000)")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this one; may be repeated")
    args = parser.parse_args(words)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.row or ROWS:
        pictures: dict[str, list[Bar]] = {}
        for title, bar in ROWS[name].play(args.programs):
            pictures.setdefault(title, []).append(bar)
            print(f"{title:<60}{bar.label:<28}{bar.value:>10.3g}", flush=True)
        (args.folder / f"{name}.svg").write_text(draw(pictures))


if __name__ == "__main__":
    main()
