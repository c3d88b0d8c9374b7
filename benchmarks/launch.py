"""How fast programs start and end (benchmarks/launch.py): 1 and 100 at once, by gRPC as `symphony run` does, and at the kernel.

From the request to the first line that the program prints, and to its end, as the client sees them. The model is idle. `warm` is
one at a time by the kernel's own socket: what a start costs by itself. Then programs that only wait: the memory that they do not
share (PSS, which divides what is shared by who shares it), and the CPU that they, the fork server and the host burn.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack

import psutil

from benchmarks.apart import Failed, run_apart
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import percentile

Samples = dict[str, list[float]]  # seconds: first_line, exit, all (until the last one has ended)
AT_ONCE = {1: 40, 100: 5}  # how many programs: how many times
QUICK_AT_ONCE = {1: 10, 100: 2}
NUM_IDLE, QUICK_NUM_IDLE = 1000, 100
IDLE_S = 10.0
WARM_PAUSE_S = 0.05  # between launches, one at a time


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "tiny", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report = Report("launch")
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(model))
        edge = stack.enter_context(rig.edge())
        at_kernel(rig, 3, 2)  # warm-up
        for at_once, times in (QUICK_AT_ONCE if is_quick else AT_ONCE).items():
            say(f"{at_once} at once")
            before = rig.meter(counters=False)
            add(report, "grpc", at_once, through_grpc(rig, edge, at_once, times))
            cpu = rig.meter(counters=False) - before
            report.notes.append(
                f"host CPU per launch by gRPC, {at_once} at once: {cpu.cpu_s['host'] / at_once / times * 1e3:.2f} ms"
            )
            add(report, "kernel", at_once, at_kernel(rig, at_once, times))
        add_idle(rig, report, QUICK_NUM_IDLE if is_quick else NUM_IDLE)
        report.settings = rig.settings()
    return report


def through_grpc(rig: Rig, edge: str, at_once: int, times: int) -> Samples:
    options = json.dumps({"at_once": at_once, "times": times})
    with rig.helper("benchmarks.outside", "launch", edge, options) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    if not line:
        raise Failed("the launching client failed")
    samples: Samples = json.loads(line)
    return samples


def at_kernel(rig: Rig, at_once: int, times: int) -> Samples:
    """The same without edge and gRPC, from a thread of the host's process."""
    samples: Samples = {"first_line": [], "exit": [], "all": []}
    text = source("hello")
    for _ in range(times):
        time.sleep(WARM_PAUSE_S)
        began = time.monotonic()
        children = [rig.session.spawn(text, "hello") for _ in range(at_once)]
        rig.session.pump(lambda: all(c.exit is not None for c in children))  # noqa: B023  called in this round only
        samples["all"].append(time.monotonic() - began)
        rig.session.wait(*children)
        for child in children:
            child.value()
            assert child.first_print is not None and child.ended is not None
            samples["first_line"].append(child.first_print - child.spawned)
            samples["exit"].append(child.ended - child.spawned)
    return samples


def add(report: Report, door: str, at_once: int, samples: Samples) -> None:
    row: dict[str, str | float | int] = {"door": door, "at once": at_once}
    for what in ("first_line", "exit"):
        ms = [s * 1e3 for s in samples[what]]
        row |= {f"{what} p50 ms": percentile(ms, 50), f"{what} p99 ms": percentile(ms, 99)}
        report.samples[f"{door}.{what}_ms_{at_once}"] = ms
        if door == "grpc":
            report.figures |= {f"{what}_p50_ms_{at_once}": percentile(ms, 50), f"{what}_p99_ms_{at_once}": percentile(ms, 99)}
    per_s = at_once / percentile(samples["all"], 50)
    row["launches/s"] = per_s
    report.rows.append(row)
    if door == "grpc":
        report.figures[f"launches_per_s_{at_once}"] = per_s
    if door == "grpc" and at_once > 1:
        report.figures["launches_per_s"] = per_s
        report.figures["launch_p99_s"] = percentile(samples["first_line"], 99)
    if door == "kernel" and at_once == 1:
        report.figures["warm_p50_ms"] = percentile(samples["first_line"], 50) * 1e3


def add_idle(rig: Rig, report: Report, num_programs: int) -> None:
    """Programs that wait for something that never happens."""
    say(f"{num_programs} idle programs")
    children = [rig.session.spawn(source("idle"), "idle") for _ in range(num_programs)]
    try:
        rig.session.pump(lambda: all(c.emitted or c.exit for c in children))
        ended = [c.exit for c in children if c.exit]
        if ended:
            raise Failed(f"idle programs ended: {ended[:3]}")
        time.sleep(1.0)  # the fork server fills its pool
        processes = runtime_processes()
        programs = [p for p in processes if p.name() == "program"]
        report.figures["idle_mib"] = sum(p.memory_full_info().pss for p in programs) / len(programs) / (1 << 20)
        before_s, host = cpu_s(processes), rig.meter(counters=False)
        time.sleep(IDLE_S)
        after_s, host = cpu_s(processes), rig.meter(counters=False) - host
        report.figures["idle_programs_cpu_percent"] = (after_s - before_s) / IDLE_S * 100
        report.figures["idle_reactor_cpu_percent"] = host.cpu_s["reactor"] / IDLE_S * 100
        report.notes.append(f"idle programs: {len(programs)} of {num_programs} processes found")
    finally:
        rig.session.kill(*children)


def runtime_processes() -> list[psutil.Process]:
    """Fork servers, programs, and the children that are held ready."""
    return [p for p in psutil.Process().children(recursive=True) if "vllm_symphony.runtime.zygote" in p.cmdline()]


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in processes)
