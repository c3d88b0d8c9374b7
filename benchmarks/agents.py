"""Agents with short tools, and a client that is far away (benchmarks/agents.py).

Each agent makes nine calls of the model and eight of a tool of 100 ms. An ordinary client pays a round trip for each call of the
model; a program pays one, for its start and its answer. Arrivals at half of what an ordinary client is served, so that what is
saved is seen and not filled by others' work; nothing is short of memory. Both sides play on vLLM's own server with Symphony in it,
the client over HTTP. Pie (SOSP '25, table 3).
"""

from __future__ import annotations

from benchmarks.apart import run_apart
from benchmarks.players import Programs
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.stats import median
from benchmarks.traced import ROWS, SCALE, TOKENS, TOOLS, Side, at_once, in_turns, tell
from benchmarks.web import WebServer
from benchmarks.web_client import WebClient
from vllm_symphony.simulate.trace import Trace
from vllm_symphony.simulate.workload import Shape, generate

LOAD = 0.5
ROUND_TRIPS_MS = (0, 10, 50)
SEEDS, TUNED_ON = (131, 132, 133), 4
FLAGS = ("--max-num-seqs", str(ROWS), "--max-num-batched-tokens", str(TOKENS))


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    report, count = Report("agents"), 24 if is_quick else 64
    with WebServer(model, with_symphony=True, flags=FLAGS, words=("--tools", str(TOOLS))) as server:
        with WebClient(server) as client:
            rate = LOAD * client.play(at_once(trace(TUNED_ON, count, 0.0))).programs_s
        traces = [trace(seed, count, rate) for seed in SEEDS[: 1 if is_quick else 3]]
        Programs(server).play(traces[0])
        for ms in ROUND_TRIPS_MS:
            with WebClient(server, rtt_s=ms / 1e3) as client:
                sides: dict[str, Side] = {"vLLM": client, "programs": Programs(server)}
                found = in_turns(sides, traces)
            pairs = list(zip(found["programs"], found["vLLM"], strict=True))
            tell(report, f"{ms} ms away: latency s", found, lambda play: play.mean_s, "vLLM")
            trip_s = ms / 1e3  # a program's own: its start, and its answer
            report.figures[f"latency_gain_{ms}ms"] = median([base.mean_s / (ours.mean_s + trip_s) for ours, base in pairs])
            report.figures[f"saved_{ms}ms"] = median([base.mean_s - ours.mean_s - trip_s for ours, base in pairs])
    calls = sum(script.num_calls for script in traces[0].scripts) / count
    report.settings = {"model": model, "rate": rate, "load": LOAD, "programs": count, "calls": calls, "flags": FLAGS}
    for ms in ROUND_TRIPS_MS[1:]:
        saved = report.figures[f"saved_{ms}ms"] - report.figures["saved_0ms"]
        report.figures[f"round_trips_saved_{ms}ms"] = saved / (ms / 1e3) / (calls - 1)
    report.figures["latency_gain_min"] = min(report.figures[f"latency_gain_{ms}ms"] for ms in ROUND_TRIPS_MS)
    return report


def trace(seed: int, count: int, rate: float) -> Trace:
    return generate("agents", Shape(count, rate=rate, scale=SCALE, seed=seed))
