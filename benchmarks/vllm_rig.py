"""The machine under measurement with the kernel in vLLM's own engine process (benchmarks/vllm_rig.py): host (b).

    this process: AsyncLLM (vLLM's front), a thread with its event loop     plain requests: `AsyncLLM.generate`
        `-- vLLM's EngineCore process: scheduler, kernel, reactor            programs and calls: its own socket <--- Session
                `-- worker process, where vLLM's executor wants one

The same surface as `Rig` where programs are concerned. No HTTP is between: the plain side is the fastest that vLLM has with its
engine in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks.plain import Timing
from benchmarks.rig import Meter, engine_arguments, say
from benchmarks.session import Session

T = TypeVar("T")
START_S = 300.0
_SERIAL = itertools.count(1)


class VllmRig:
    """Use it in a `with`."""

    def __init__(self, model: str, **engine_args: Any) -> None:
        say(f"starting vLLM with the kernel in its engine on {model}")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
        os.environ["VLLM_PLUGINS"] = "symphony"
        self._folder = tempfile.TemporaryDirectory(prefix="symphony-bench-")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm-front", daemon=True).start()
        args = engine_arguments(model, **engine_args)
        from vllm.engine.arg_utils import AsyncEngineArgs

        self._args = AsyncEngineArgs(**{f.name: getattr(args, f.name) for f in fields(args)})
        socket = f"{self._folder.name}/kernel.sock"
        self.engine, self._told = self._run(self._start(socket))
        self.session = Session(socket)
        self._core = psutil.Process(self._info()["pid"])
        self._workers = [p for p in self._core.children() if "VLLM" in " ".join((p.name(), *p.cmdline()))]
        self._random = random.Random(1)

    async def _start(self, socket: str) -> tuple[Any, dict[str, Any]]:
        from vllm.v1.engine.async_llm import AsyncLLM

        engine = AsyncLLM.from_engine_args(self._args)
        told = await engine.engine_core.call_utility_async("symphony_attach", ["--socket", socket])
        return engine, told

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def __enter__(self) -> VllmRig:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self._run(self.engine.engine_core.call_utility_async("symphony_detach"))
        self._loop.call_soon_threadsafe(self.engine.shutdown)
        time.sleep(0.5)
        self._folder.cleanup()

    # ---- what Fleet asks of a rig

    def prompts(self, n: int, num_tokens: int) -> list[list[int]]:
        """Tokens that nobody has seen."""
        return [[self._random.randrange(3, self._told["vocab_size"]) for _ in range(num_tokens)] for _ in range(n)]

    @property
    def page_size(self) -> int:
        return int(self._told["page_size"])

    def counters(self) -> dict[str, float]:
        engine: dict[str, float] = self._info()["engine"]
        return engine

    def _info(self) -> dict[str, Any]:
        from vllm_symphony.abi.calls import NoArgs

        info: dict[str, Any] = json.loads(self.session.call("info", NoArgs()).json)
        return info

    def meter(self, *, counters: bool = True) -> Meter:
        """Read now. `engine`: vLLM's engine process, kernel included; `other`: its worker. Not this front, not the programs."""
        parts = {"engine": _cpu_s(self._core), "reactor": 0.0, "other": sum(map(_cpu_s, self._workers))}
        return Meter(time.monotonic(), {"host": sum(parts.values()), **parts}, self.counters() if counters else {})

    def settings(self) -> dict[str, Any]:
        config = self.engine.vllm_config
        return {
            "host": "vllm",
            "model": Path(self._told["model"]).name,
            "dtype": self._told["dtype"],
            "page_size": self._told["page_size"],
            "pages": self._told["pages"],
            "prefix_caching": config.cache_config.enable_prefix_caching,
            "max_num_seqs": config.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "executor": config.parallel_config.distributed_executor_backend,
            "omp_threads": os.environ.get("OMP_NUM_THREADS"),
        }

    # ---- plain requests

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, top_k: int | None = None) -> Timing:
        """Decode all prompts together, from their sending to the last token's arrival."""
        before = self.meter()
        began = time.monotonic()
        ended = max(self._run(self._decode_all(prompts, num_tokens, top_k)))
        return Timing(len(prompts) * num_tokens, ended - began, self.meter() - before)

    async def _decode_all(self, prompts: Sequence[Sequence[int]], num_tokens: int, top_k: int | None) -> list[float]:
        return list(await asyncio.gather(*(self._decode_one(p, num_tokens, top_k) for p in prompts)))

    async def _decode_one(self, prompt: Sequence[int], num_tokens: int, top_k: int | None) -> float:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True, logprobs=top_k, detokenize=False)
        outputs = self.engine.generate(TokensPrompt(prompt_token_ids=list(prompt)), params, f"plain-{next(_SERIAL)}")
        found = 0
        async for output in outputs:
            found = len(output.outputs[0].token_ids)
        assert found == num_tokens, found
        return time.monotonic()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
