"""What a step takes on this machine, for the simulator; how well that foretells the engine then (benchmarks/calibrate.py).

    bursts of plain requests --> each step's batch and seconds --> five coefficients (simulate/steptime.py) --> step-time.json
    one program alone, on both ----------------------------------------------> how long a program takes between two calls
    two small traces, real programs on the engine and the simulator's -------> completions of both, and their difference

A step is timed from one call of the scheduler to the next, so what the host does between is in it. The last one of a burst is left
out: after it the engine is idle.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.plain import PlainSide
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import median
from vllm_symphony.simulate import trace as traces
from vllm_symphony.simulate.player import Host, Player
from vllm_symphony.simulate.steptime import Chunk, StepTime, errors, fit
from vllm_symphony.simulate.trace import Script, Trace, Turn
from vllm_symphony.simulate.workload import Shape, generate

FILE = Path("step-time.json")
ROWS, CONTEXTS = (1, 2, 4, 8, 16), (16, 256, 1024, 1800)
NUM_TOKENS = 16  # that each request of a burst decodes
Step = tuple[list[Chunk], float]


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "tiny", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report = Report("calibrate")
    with Rig(model, max_num_seqs=16, max_num_batched_tokens=512) as rig:
        recorder = Recorder(rig)
        steps = bursts(rig, recorder, is_quick)
        kept, held_out = steps[::2], steps[1::2]
        found = fit(kept)
        found.save(FILE)
        off = sorted(errors(found, held_out))
        report.figures["fit_error_p50"], report.figures["fit_error_p90"] = off[len(off) // 2], off[len(off) * 9 // 10]
        report.samples["step_error"] = off
        report.settings = rig.settings() | {"step_time": asdict(found), "num_steps": len(steps)}
        report.notes.append(f"wrote {FILE}: symphony simulate --step-time {FILE}")
        host = replace(host_of(rig, found), reaction_s=reaction_s(rig, host_of(rig, found)))
        report.settings["reaction_s"] = host.reaction_s
        for name, trace in checks(is_quick).items():
            say(f"{name}: {len(trace.scripts)} programs on the engine")
            compare(report, name, played(rig, trace), [o.completion_s or 0.0 for o in Player(trace, host).play().outcomes])
    return report


def bursts(rig: Rig, recorder: Recorder, is_quick: bool) -> list[Step]:
    """Batches of many shapes, each from new prompts."""
    plain, steps = PlainSide(rig), list[Step]()
    plain.decode(rig.prompts(4, 64), NUM_TOKENS)  # warm
    recorder.take()
    for num_rows in ROWS[:3] if is_quick else ROWS:
        for context in CONTEXTS[:3] if is_quick else CONTEXTS:
            say(f"{num_rows} rows of {context} tokens")
            plain.decode(rig.prompts(num_rows, context), NUM_TOKENS)
            steps += recorder.take()
    return steps


class Recorder:
    """Sees each step of a rig's engine from its scheduler's side."""

    def __init__(self, rig: Rig) -> None:
        self._looks: list[tuple[float, list[Chunk]]] = []
        scheduler = rig.host.scheduler
        schedule = scheduler.schedule

        def watched(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            output = schedule(*args, **kwargs)
            computed = {name: scheduler.requests[name].num_computed_tokens for name in output.num_scheduled_tokens}
            self._looks.append((began, [Chunk(n, computed[name] - n) for name, n in output.num_scheduled_tokens.items()]))
            return output

        rig.host.call_in_engine(lambda: setattr(scheduler, "schedule", watched))

    def take(self) -> list[Step]:
        """The steps since the last time, but the last one."""
        looks, self._looks = self._looks, []
        busy = [i for i, (_, batch) in enumerate(looks) if batch]
        return [(looks[i][1], looks[i + 1][0] - looks[i][0]) for i in busy[:-1]]


def host_of(rig: Rig, step_time: StepTime) -> Host:
    """The machine under measurement, as the simulator knows it."""
    settings = rig.settings()
    return Host(
        num_pages=settings["pages"], page_size=settings["page_size"], max_rows=settings["max_num_seqs"],
        max_tokens=settings["max_num_batched_tokens"], step_time=step_time,
    )  # fmt: skip


def reaction_s(rig: Rig, host: Host) -> float:
    """What a program takes between two calls, from one that is alone."""
    alone = Trace("alone", (Script(0.0, "alone", tuple(Turn(32, 8) for _ in range(20))),))
    played(rig, alone)  # warm
    (real,) = played(rig, alone)
    (foretold,) = Player(alone, host).play().outcomes
    return max(0.0, real - (foretold.completion_s or 0.0)) / alone.scripts[0].num_calls


def checks(is_quick: bool) -> dict[str, Trace]:
    """Two workloads that the fit has not seen, more than the engine can do at once."""
    count = 12 if is_quick else 30
    agents = generate("agents", Shape(count, rate=8.0, scale=4, seed=11))
    fair = generate("fair", Shape(count, rate=4.0, scale=12, seed=12))
    return {"agents": agents, "fair": fair}


def played(rig: Rig, trace: Trace) -> list[float]:
    """Each program's completion on the engine, in seconds."""
    session, text = rig.session, source("replay")
    file = StringIO()
    traces.write(replace(trace, about={}), file)
    gate = f"/tmp/replay-{time.monotonic_ns()}"
    vocab_size = rig.host.model.vocab_size
    children = [
        session.spawn(text, "replay", gate=gate, at=line["at"], steps=line["steps"], vocab_size=vocab_size)
        for line in map(json.loads, file.getvalue().splitlines()[1:])
    ]
    session.pump(lambda: all(child.emitted or child.exit for child in children))
    fd = session.create(gate)
    session.wait(*children)
    session.remove(gate, fd)
    for child in children:
        child.value()
    return [child.emitted[-1] for child in children]


def compare(report: Report, name: str, real: list[float], foretold: list[float]) -> None:
    mean_real, mean_foretold = sum(real) / len(real), sum(foretold) / len(foretold)
    each = [abs(f - r) / r for r, f in zip(real, foretold, strict=True)]
    report.figures[f"{name}_error"] = abs(mean_foretold - mean_real) / mean_real
    report.samples[name], report.baseline_samples[name] = foretold, real
    report.rows.append(
        {"trace": name, "programs": len(real), "engine, mean s": mean_real, "simulator, mean s": mean_foretold,
         "error of the mean": mean_foretold / mean_real - 1, "error of a program, median": median(each)}
    )  # fmt: skip
