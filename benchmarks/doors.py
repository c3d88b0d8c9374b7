"""What each door adds to a call, and what an idle session costs (benchmarks/doors.py).

    child         a program at the server, over its socketpair
    paused child  the same, but it pauses before each forward as long as a stream's round trip is longer: an engine that stood
                  still for a moment computes the next step slower, whoever asks
    socket        another process over the kernel's unix socket
    stream        a remote program in Python: SessionService.Connect
    unary         the same session, SessionService.Call for each call
    typescript    a remote program in TypeScript (examples/clients/typescript), where npm is

All run the same loop of programs/door.py, one door at a time, in turns: a control call, then a forward of one token, over and over.
Then 1,000 sessions are opened and left alone: what the edge's and the host's memory grew by, and the CPU that they burn.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.apart import Failed, run_apart
from benchmarks.calls import Samples, outside
from benchmarks.programs import source
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import ROOT, Rig, say
from benchmarks.stats import cpu_time_s, median, percentile

NUM_IDLE = 1000
IDLE_S = 5.0
TYPESCRIPT = ROOT / "examples" / "clients" / "typescript"
OWN, PAUSED = "child", "paused child"
GUESS_S = 0.0007  # a pause, before anything is known
STREAM = "stream"


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "tiny", options.quick, built_typescript())


def measure(model: str, is_quick: bool, typescript: Path | None) -> Report:
    num_turns, num_rounds = (2, 60) if is_quick else (6, 300)
    report = Report("doors")
    found: dict[str, list[Samples]] = {}
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(model))
        edge = stack.enter_context(rig.edge())
        prompt = rig.prompt(rig.host.model.page_size + 1)
        loop = {"prompt": prompt, "num_rounds": num_rounds}
        doors: dict[str, Callable[[], Samples]] = {
            OWN: lambda: from_child(rig, prompt, num_rounds),
            PAUSED: lambda: from_child(rig, prompt, num_rounds, extra_s(found)),
            "socket": lambda: outside(rig, "door-socket", rig.kernel_socket, **loop),
            STREAM: lambda: outside(rig, "door-stream", edge, **loop),
            "unary": lambda: outside(rig, "door-unary", edge, **loop),
        }
        if typescript is not None:
            doors["typescript"] = lambda: from_typescript(typescript, edge, num_rounds)
        else:
            report.notes.append("typescript: left out, npm is not here")
        for turn in range(num_turns):
            say(f"turn {turn + 1} of {num_turns}")
            for door in sorted(doors, reverse=turn % 2 == 1):
                found.setdefault(door, []).append(doors[door]())
        say(f"{NUM_IDLE} idle sessions")
        idle = idle_sessions(rig, edge)
        report.settings = rig.settings() | {"rounds": num_turns * num_rounds, "idle_sessions": NUM_IDLE, "idle_s": IDLE_S}
    for door in doors:
        report.rows += [row(door, call, [s[call] for s in found[door]]) for call in ("getpid", "forward")]
        report.samples[f"{door}.forward"] = flat(found[door], "forward")
        report.samples[f"{door}.getpid"] = flat(found[door], "getpid")
    report.baseline_samples["stream_added_ms_p50"] = report.samples[f"{OWN}.forward"]
    report.figures = {
        "stream_added_ms_p50": added_ms(found[STREAM], found[OWN], "forward"),
        "stream_added_ms_p50_over_paused": added_ms(found[STREAM], found[PAUSED], "forward"),
        "stream_added_ms_p50_control": added_ms(found[STREAM], found[OWN], "getpid"),
        **idle,
    }
    return report


def added_ms(door: list[Samples], other: list[Samples], call: str) -> float:
    """Between the medians of a turn; the median of the turns."""
    return median([percentile(a[call], 50) - percentile(b[call], 50) for a, b in zip(door, other, strict=True)]) * 1e3


def extra_s(found: dict[str, list[Samples]]) -> float:
    """What a stream's control call takes longer than a child's, by the turns so far."""
    if not (found.get(STREAM) and found.get(OWN)):
        return GUESS_S
    return max(0.0, median([percentile(s["getpid"], 50) for s in found[STREAM]]) - percentile(flat(found[OWN], "getpid"), 50))


def flat(turns: list[Samples], call: str) -> list[float]:
    return [seconds for turn in turns for seconds in turn[call]]


def row(door: str, call: str, turns: list[list[float]]) -> dict[str, float | str | int]:
    seconds = [s for turn in turns for s in turn]
    medians = [percentile(turn, 50) * 1e3 for turn in turns]
    return {"door": door, "call": call, "n": len(seconds), "p50 ms": percentile(seconds, 50) * 1e3,
            "p99 ms": percentile(seconds, 99) * 1e3, "lowest turn p50": min(medians), "highest": max(medians)}  # fmt: skip


def from_child(rig: Rig, prompt: list[int], num_rounds: int, pause_s: float = 0.0) -> Samples:
    child = rig.session.spawn(source("door"), "door", prompt=prompt, num_rounds=num_rounds, pause_s=pause_s)
    rig.session.wait(child)
    samples: Samples = child.value()
    return samples


def built_typescript() -> Path | None:
    """The TypeScript client's measuring program, built; None without npm."""
    npm = shutil.which("npm")
    if npm is None or not (TYPESCRIPT / "package.json").exists():
        return None
    say("building the TypeScript client")
    for words in (("ci", "--silent"), ("run", "--silent", "build")):
        done = subprocess.run([npm, *words], cwd=TYPESCRIPT, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"npm {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return TYPESCRIPT / "dist" / "bench.js"


def from_typescript(program: Path, edge: str, num_rounds: int) -> Samples:
    node = shutil.which("node")
    assert node is not None
    command = [node, str(program), "--socket", edge, "--calls", str(num_rounds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Failed(f"the TypeScript client failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    return {call: [ms / 1e3 for ms in found[call]] for call in ("getpid", "forward")}


def idle_sessions(rig: Rig, edge: str) -> dict[str, float]:
    """Memory and CPU of the edge and of the host while many sessions do nothing, each over a connection of its own: what it is more
    than without them."""
    pids = {"host": os.getpid(), "edge": edge_pid()}
    quiet = cpu_percent(pids)
    before = {part: rss_kb(pid) for part, pid in pids.items()}
    with rig.helper("benchmarks.outside", "idle", edge, json.dumps({"num_sessions": NUM_IDLE})) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise Failed("the idle sessions failed")
        time.sleep(1.0)
        grown = {part: (rss_kb(pid) - before[part]) / NUM_IDLE for part, pid in pids.items()}
        burnt = {f"idle_{part}_cpu_percent": percent - quiet[part] for part, percent in cpu_percent(pids).items()}
    return {"idle_session_kb": sum(grown.values()), **{f"idle_{part}_kb": kb for part, kb in grown.items()}, **burnt}


def cpu_percent(pids: dict[str, int]) -> dict[str, float]:
    """Of one core, in the next seconds."""
    before = {part: cpu_time_s(pid) for part, pid in pids.items()}
    time.sleep(IDLE_S)
    return {part: (cpu_time_s(pid) - before[part]) / IDLE_S * 100 for part, pid in pids.items()}


def edge_pid() -> int:
    return next(child.pid for child in psutil.Process(os.getpid()).children() if "benchmarks.edge" in child.cmdline())


def rss_kb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1000
