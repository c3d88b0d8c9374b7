"""Latency of each call, by door (benchmarks/calls.py).

    program   a child process over its socketpair            (programs/calls.py)
    socket    another process over the kernel's unix socket  (the same program)
    grpc      another process through the edge               (the calls that exist there)

Each idle and while 8 programs stream, in turns; one call at a time, at moments that no step sets. Control calls must not wait for a
step: the figures are the worst of `fork` and `stat` from a program under load.
Then control calls one after the other from a confined program, nothing else running: the round trip, and the CPU that the server
spends on one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

from benchmarks.apart import Failed, run_apart
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import percentile
from benchmarks.streams import NUM_STREAMS, streams
from vllm_symphony.abi.types import ResourceLimits

Samples = dict[str, list[float]]  # seconds, by call
CONTROL = ("fork", "stat")
FILE = "/tmp/bench-calls"
TEXT = source("calls")


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    num_turns, num_rounds = (1, 20) if is_quick else (4, 100)
    report = Report("calls")
    found: dict[str, dict[str, Samples]] = {"idle": {}, "loaded": {}}
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(model))
        edge = stack.enter_context(rig.edge())
        fd = rig.session.create(FILE)
        prompt = rig.prompt(rig.host.model.page_size + 1)
        doors: dict[str, Callable[[], Samples]] = {
            "program": lambda: from_program(rig, prompt, num_rounds),
            "socket": lambda: outside(
                rig, "kernel-calls", rig.kernel_socket, prompt=prompt, num_rounds=num_rounds, name="/tmp/bench-socket"
            ),
            "grpc": lambda: outside(rig, "grpc-calls", edge, path=FILE, num_rounds=num_rounds),
        }
        for turn in range(num_turns):
            for state in ("idle", "loaded") if turn % 2 == 0 else ("loaded", "idle"):
                say(f"turn {turn + 1} of {num_turns}, {state}")
                with streams(rig) if state == "loaded" else nullcontext():
                    for door, measure_calls in doors.items():
                        into = found[state].setdefault(door, {})
                        for call, seconds in measure_calls().items():
                            into.setdefault(call, []).extend(seconds)
        round_trips(rig, report, num_turns, 2000)
        report.settings = rig.settings() | {"streams": NUM_STREAMS, "rounds": num_turns * num_rounds}
        rig.session.remove(FILE, fd)
    for door, by_call in found["idle"].items():
        for call, idle in by_call.items():
            add(report, door, call, idle, found["loaded"][door][call])
    loaded = [found["loaded"]["program"][call] for call in CONTROL]
    report.figures["control_p50_ms_loaded"] = max(percentile(s, 50) * 1e3 for s in loaded)
    report.figures["control_p99_ms_loaded"] = max(percentile(s, 99) * 1e3 for s in loaded)
    for call in ("stat", "ping"):
        for percent in (50, 99):
            seconds = found["loaded"]["grpc"][call]
            report.figures[f"grpc_{call}_p{percent}_ms_loaded"] = percentile(seconds, percent) * 1e3
    return report


def add(report: Report, door: str, call: str, idle: list[float], loaded: list[float]) -> None:
    report.samples[f"{door}.{call}"], report.baseline_samples[f"{door}.{call}"] = loaded, idle
    report.rows.append(
        {"door": door, "call": call, "n": len(loaded), "idle p50 ms": percentile(idle, 50) * 1e3,
         "idle p99": percentile(idle, 99) * 1e3, "loaded p50 ms": percentile(loaded, 50) * 1e3,
         "loaded p99": percentile(loaded, 99) * 1e3, "loaded max": max(loaded) * 1e3}
    )  # fmt: skip


def from_program(rig: Rig, prompt: list[int], num_rounds: int) -> Samples:
    child = rig.session.spawn(TEXT, "calls", num_rounds=num_rounds, prompt=prompt, name="/tmp/bench-program")
    rig.session.wait(child)
    samples: Samples = child.value()
    return samples


def round_trips(rig: Rig, report: Report, num_turns: int, num_calls: int) -> None:
    """Without the pace that programs usually have, so that there is something to measure."""
    quick = ResourceLimits(calls_per_s=1e6)
    seconds: list[float] = []
    cpu_s = 0.0
    for _ in range(num_turns):
        before = rig.meter(counters=False)
        child = rig.session.spawn(source("control"), "control", _limits=quick, num_calls=num_calls)
        rig.session.wait(child)
        cpu_s += (rig.meter(counters=False) - before).cpu_s["reactor"]
        seconds += child.value()
    report.figures["confined_call_p50_us"] = percentile(seconds, 50) * 1e6
    report.figures["confined_call_p99_us"] = percentile(seconds, 99) * 1e6
    report.figures["call_server_cpu_us"] = cpu_s / len(seconds) * 1e6
    report.samples["confined_call_us"] = [s * 1e6 for s in seconds]


def outside(rig: Rig, what: str, socket: str, **options: Any) -> Samples:
    """Measured by a client in a process of its own."""
    with rig.helper("benchmarks.outside", what, socket, json.dumps(options)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    if not line:
        raise Failed(f"the client {what} failed")
    samples: Samples = json.loads(line)
    return samples
