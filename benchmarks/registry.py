"""Which benchmarks there are, what each shows, and what its figures must be (benchmarks/registry.py).

A benchmark NAME is the module `benchmarks/NAME.py` with a function `run(options: Options) -> Report`. Modules are imported only
when they run, for they import vLLM.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from benchmarks.report import Report


@dataclass(frozen=True)
class Bound:
    """A figure must be at least, or at most, this."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        """NaN keeps no bound."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        parts = [
            f">= {self.at_least:g}" if self.at_least is not None else "",
            f"<= {self.at_most:g}" if self.at_most is not None else "",
        ]
        return " ".join(p for p in parts if p)


@dataclass(frozen=True)
class Options:
    """What the command line asks of a benchmark. `quick`: a short run that shows that it works; its figures are rough."""

    quick: bool = False
    model: str | None = None  # tiny, small, a name or a folder; None: the benchmark's own choice
    host: str = "own"  # where the kernel lives: in a host of ours, or in vLLM's engine process ("vllm"); for those that can


@dataclass(frozen=True)
class Benchmark:
    name: str
    shows: str
    bounds: Mapping[str, Bound] = field(default_factory=dict)

    @property
    def is_written(self) -> bool:
        return importlib.util.find_spec(f"benchmarks.{self.name}") is not None

    def run(self, options: Options) -> Report:
        module = importlib.import_module(f"benchmarks.{self.name}")
        return cast(Callable[[Options], Report], module.run)(options)


ALL = (
    Benchmark(
        "decode",
        "tokens/s of fused, predicated and token-by-token programs against plain vLLM; tax per token",
        {
            "fused_ratio_min": Bound(at_least=0.97),
            "until_ratio_min": Bound(at_least=0.96),
            "token_ratio_min": Bound(at_least=0.92),
            "tax_wall_us_1": Bound(at_most=300),
            "tax_cpu_us_32": Bound(at_most=150),
        },
    ),
    Benchmark(
        "batching",
        "engine steps a round of 8, 32, 128 programs in lock step; what one that is late costs them, and the window a lone one",
        {"steps_per_round": Bound(at_most=1.05), "beside_a_late_one_min": Bound(at_least=0.9)},
    ),
    Benchmark(
        "context",
        "a one-token forward against a decode step, from 128 to 8,000 tokens of context",
        {"forward_over_decode_max": Bound(at_most=1.10)},
    ),
    Benchmark(
        "calls",
        "latency of each system call by door, idle and while 8 fused streams run",
        {
            "control_p50_ms_loaded": Bound(at_most=1.0),
            "control_p99_ms_loaded": Bound(at_most=5.0),
            "confined_call_p50_us": Bound(at_most=150),
            "call_server_cpu_us": Bound(at_most=40),
        },
    ),
    Benchmark(
        "doors",
        "a control call and a one-token forward by door (child, socket, gRPC stream and unary, TypeScript); 1,000 idle sessions",
        {
            "stream_added_ms_p50": Bound(at_most=1.0),
            "idle_session_kb": Bound(at_most=100),
            "idle_edge_cpu_percent": Bound(at_most=2),
            "idle_host_cpu_percent": Bound(at_most=2),
        },
    ),
    Benchmark(
        "files",
        "forks, opens, edits, and what moves between device, host memory and disk, against plain vLLM and the plain machine",
        {
            "fork_ms": Bound(at_most=1.0),
            "warm_open_over_prefix_hit": Bound(at_most=1.05),
            "pages_100_forks_over_bound": Bound(at_most=1.0),
            "restore_over_raw_read": Bound(at_most=2.0),
            "swap_host_share": Bound(at_least=0.5),
            "swap_disk_share": Bound(at_least=0.5),
            "swap_neighbour_ratio": Bound(at_least=0.9),
        },
    ),
    Benchmark(
        "launch",
        "start of a program to its first line and to its exit, 1 and 100 at once; 1,000 idle programs",
        {
            "warm_p50_ms": Bound(at_most=8.0),
            "launches_per_s": Bound(at_least=150),
            "launch_p99_s": Bound(at_most=1.0),
            "idle_mib": Bound(at_most=3.5),
            "idle_programs_cpu_percent": Bound(at_most=2),
        },
    ),
    Benchmark(
        "interference",
        "8 fused streams while a client does 500 pings/s and 20 launches/s, against their quiet rate",
        {"interference_ratio": Bound(at_least=0.95)},
    ),
    Benchmark(
        "isolation",
        "a good program's decode rate and a client's pings beside 4 programs that spin and 3 that flood, against idle ones",
        {"decode_ratio": Bound(at_least=0.8), "ping_p99_ms": Bound(at_most=25)},
    ),
    Benchmark(
        "dropin",
        "vLLM's OpenAI server with Symphony loaded and no program against the same server without: 1, 8, 32 streams",
        {"ratio_min": Bound(at_least=0.98)},
    ),
    Benchmark(
        "calibrate",
        "what a step takes here, for the simulator (step-time.json), and how well it then foretells two workloads on the engine",
        {"fit_error_p50": Bound(at_most=0.15), "agents_error": Bound(at_most=0.25), "fair_error": Bound(at_most=0.25)},
    ),
    Benchmark(
        "mix",
        "chat, function calling and tree search as they come, memory short: what a program waits, against vLLM's fcfs and priority",
        {"mean_latency_gain": Bound(at_least=1.5), "p95_latency_gain": Bound(at_least=1.0)},
    ),
    Benchmark(
        "fair",
        "small, medium and large programs together: mean completion against equal shares (vtc), and the worst one's delay",
        {"mean_completion_vs_vtc": Bound(at_most=0.7), "delay_over_bound": Bound(at_most=1.0)},
    ),
    Benchmark(
        "toolgaps",
        "programs that wait for tools while others want their memory: programs a second at three pressures, against plain vLLM",
        {
            "throughput_gain_pressure0.5": Bound(at_least=0.97),
            "throughput_gain_pressure2": Bound(at_least=1.5),
            "throughput_gain_pressure4": Bound(at_least=1.5),
        },
    ),
    Benchmark(
        "documents",
        "questions over 100 popular documents, twice as much as the cache holds: time to first token against plain vLLM",
        {"ttft_gain": Bound(at_least=2.0)},
    ),
    Benchmark(
        "agents",
        "agents with tools of 100 ms, and an ordinary client that is 0, 10 and 50 ms away: latency against plain vLLM",
        {"latency_gain_min": Bound(at_least=0.97)},
    ),
    Benchmark(
        "mixed",
        "16 plain streams beside 16 token-by-token programs on one engine, against 32 plain streams; how fair it is",
        {"mixed_ratio": Bound(at_least=0.9), "share_min": Bound(at_least=0.9)},
    ),
)
BY_NAME = {b.name: b for b in ALL}
