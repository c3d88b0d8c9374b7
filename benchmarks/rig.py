"""The machine under measurement (benchmarks/rig.py): engine, kernel, reactor and real programs, as `symphony serve` makes them.

    main thread: measures, waits            programs (fork server)       clients (benchmarks/outside.py) -> edge process
    symphony-engine, symphony-reactor: what a kernel host is                                     |
           ^--- plain requests of the same engine (plain.py)   <--- kernel socket --- Session ---'

The settings are those of `symphony serve` (engine/defaults.py), except what the benchmark's table says. Use it in a `with`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.apart import Failed
from benchmarks.session import Session

if TYPE_CHECKING:
    from vllm_symphony.engine.tier import TierLimits

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "models" / "tiny"


def engine_arguments(model: str, **more: Any) -> Any:
    """vLLM's EngineArgs for `tiny`, `small`, or a name or folder; the environment is set first."""
    from vllm_symphony.engine.defaults import cpu_defaults, prepare_cpu
    from vllm_symphony.engine.own import prepare_environment

    on_cpu = prepare_cpu()
    prepare_environment()
    from vllm.engine.arg_utils import EngineArgs

    args: dict[str, Any] = {"model": model, "max_model_len": 2048, "enable_prefix_caching": True, "seed": 0, **more}
    if model == "tiny":
        args |= {"model": str(TINY), "dtype": "float32"}
    elif model == "small":
        from vllm_symphony.model import ensure_default_model

        args["model"] = str(ensure_default_model(progress=say))
    engine_args = EngineArgs(**args)
    if on_cpu:
        cpu_defaults(engine_args)
    return engine_args


def say(text: str) -> None:
    """Progress, for who waits."""
    print(f"... {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Meter:
    """CPU seconds of the host's parts, and the engine's counters, at one moment; `a - b` is what happened between."""

    at: float
    cpu_s: dict[str, float]
    counters: dict[str, float]

    def __sub__(self, earlier: Meter) -> Meter:
        return Meter(
            self.at - earlier.at,
            {k: v - earlier.cpu_s.get(k, 0.0) for k, v in self.cpu_s.items()},
            {k: v - earlier.counters.get(k, 0.0) for k, v in self.counters.items()},
        )


class Rig:
    """One engine with a kernel before it."""

    def __init__(self, model: str, *, tiers: TierLimits | None = None, tools: Path | None = None, **engine_args: Any) -> None:
        """`tiers`: keep files in a state directory, with so much below the device. `tools`: the operator's file of them."""
        say(f"starting an engine on {model}")
        self._folder = tempfile.TemporaryDirectory(prefix="symphony-bench-")
        self.kernel_socket = f"{self._folder.name}/kernel.sock"
        self.args = engine_arguments(model, **engine_args)
        from vllm_symphony.engine.boot import load_tools, open_storage
        from vllm_symphony.engine.own import OwnHost
        from vllm_symphony.engine.reactor import Reactor
        from vllm_symphony.engine.tier import TierLimits
        from vllm_symphony.kernel.kernel import Kernel
        from vllm_symphony.store.state import StateDirectory

        directory = StateDirectory(Path(self._folder.name)) if tiers is not None else None
        self.limits = replace(tiers or TierLimits(), directory=directory.pages if directory else None)
        self.host = OwnHost(self.args, tiers=self.limits)
        storage = open_storage(directory, self.host, 1.0)
        kernel = Kernel(self.host.model, seed=1, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns(), info=dict)
        if directory is not None:
            kernel.restore(storage.load(), time.monotonic_ns())
        self.reactor = Reactor(
            kernel, self.host, store=storage, socket_path=self.kernel_socket, principal="bench", tools=load_tools(tools)
        )
        self.reactor.start()
        if self.reactor.tools is not None:
            self.reactor.tools.wait_ready()
        self.session = Session(self.kernel_socket)
        self._random = random.Random(1)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self.reactor.stop()
        self._folder.cleanup()

    @property
    def page_size(self) -> int:
        return self.host.model.page_size

    @property
    def vocab_size(self) -> int:
        return self.host.model.vocab_size

    def prompt(self, num_tokens: int) -> list[int]:
        """Tokens that nobody has seen: no side profits of the other's prefix cache."""
        return [self._random.randrange(3, self.host.model.vocab_size) for _ in range(num_tokens)]

    def prompts(self, n: int, num_tokens: int) -> list[list[int]]:
        return [self.prompt(num_tokens) for _ in range(n)]

    @property
    def pages(self) -> Path:
        """Where page files are."""
        assert self.limits.directory is not None
        return self.limits.directory

    def forget_copies(self, fd: int) -> None:
        """As if the file's pages had been computed just now: nothing below the device has them."""
        from vllm_symphony.abi.calls import Stat

        ino, table = self.session.call("stat", Stat(fd)).file.ino, self.host.device.table
        self.host.call_in_engine(lambda: table.forget_copies(table.files[ino], 0))

    def counters(self) -> dict[str, float]:
        counters: dict[str, float] = self.host.call_in_engine(self.host.counters)
        return counters

    def meter(self, *, counters: bool = True) -> Meter:
        """Read now. The measuring thread's own CPU is in no part."""
        clocks = {t.name: _thread_cpu_s(t) for t in threading.enumerate()}
        engine, reactor = clocks.get("symphony-engine", 0.0), clocks.get("symphony-reactor", 0.0)
        host = time.process_time() - time.thread_time()
        parts = {"host": host, "engine": engine, "reactor": reactor, "other": host - engine - reactor}
        return Meter(time.monotonic(), parts, self.counters() if counters else {})

    def set_window(self, seconds: float) -> None:
        """The cohort wait of the batch former."""
        self.host.call_in_engine(lambda: self.host.scheduler.cohort.choose("cohort", {"window_s": seconds}))

    def settings(self) -> dict[str, Any]:
        """What someone needs to repeat it."""
        model, config = self.host.model, self.host.scheduler.vllm_config
        return {
            "model": Path(model.name).name,
            "dtype": model.dtype,
            "page_size": model.page_size,
            "pages": model.num_pages,
            "max_model_len": model.max_positions + 1,
            "prefix_caching": config.cache_config.enable_prefix_caching,
            "max_num_seqs": config.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "async_scheduling": config.scheduler_config.async_scheduling,
            "omp_threads": os.environ.get("OMP_NUM_THREADS"),
            "batch_policy": self.host.scheduler.cohort.policy.name,
        }

    # ---- processes beside it

    @contextmanager
    def edge(self) -> Iterator[str]:
        """An edge process before this kernel; gives its socket."""
        path = f"{self._folder.name}/symphony.sock"
        with self.helper("benchmarks.edge", self.kernel_socket, path) as process:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise Failed("the edge did not start")
            yield path

    @contextmanager
    def helper(self, module: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`python -m module words` with pipes; it ends when its stdin closes, or by force."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            process_group=0,  # Ctrl-C is for us; in our session, as the edge of a server is in its host's (zygote.py: autogroup)
        )  # fmt: skip
        try:
            yield process
        finally:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _thread_cpu_s(thread: threading.Thread) -> float:
    assert thread.ident is not None
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    except OSError:  # it has just ended
        return 0.0
