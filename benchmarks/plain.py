"""The other side of the comparison: plain vLLM requests (benchmarks/plain.py).

    PlainSide   on the same engine as the programs, when no program runs and no file is open: same process, scheduler, threads
    StockSide   vLLM's own EngineCore with vLLM's own scheduler and worker, in a process of its own

Both add all requests at once and take the time from there to the last token's arrival. Nothing is detokenized, no frontend is
between: it is the step loop alone, the fastest that vLLM has.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.apart import Failed, follow
from benchmarks.rig import Meter, Rig, engine_arguments, say

TIMEOUT_S = 300.0
_SERIAL = itertools.count(1)


@dataclass
class Timing:
    """One measurement: `num_tokens` of all requests together in `seconds`; what the host spent, and the programs."""

    num_tokens: int
    seconds: float
    meter: Meter | None = None
    program_cpu_s: float = 0.0
    arrivals: list[float] = field(default_factory=list)  # of each token, where there is one request

    @property
    def rate(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def wall_us(self) -> float:
        """Per token."""
        return self.seconds / self.num_tokens * 1e6

    def cpu_us(self, part: str = "host") -> float:
        """Per token."""
        assert self.meter is not None
        return self.meter.cpu_s[part] / self.num_tokens * 1e6


def make_request(prompt: Sequence[int], num_tokens: int, top_k: int | None, hasher: Any) -> Any:
    """A greedy request of exactly `num_tokens`, with the `top_k` log-probabilities of each, if any."""
    from vllm import SamplingParams
    from vllm.v1.request import Request

    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True, logprobs=top_k)
    return Request(f"plain-{next(_SERIAL)}", list(prompt), params, None, block_hasher=hasher)


class PlainSide:
    """Plain requests on a rig's engine."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, top_k: int | None = None) -> Timing:
        """Decode all prompts together."""
        host = self._rig.host
        requests = [make_request(p, num_tokens, top_k, host.core.request_block_hasher) for p in prompts]
        ended, left = threading.Event(), len(requests)
        arrivals: list[float] = []

        def on_output(output: Any) -> None:
            nonlocal left
            arrivals.append(time.monotonic())
            if output.finish_reason is not None:
                left -= 1
                if not left:
                    ended.set()

        def add_all() -> None:  # in one go, as `OwnHost.add_plain` does for one
            for request in requests:
                host._plain[request.request_id] = on_output
                host.core.add_request(request)

        before = self._rig.meter()
        began = time.monotonic()
        host.call_in_engine(add_all)
        if not ended.wait(TIMEOUT_S):
            raise Failed("plain requests do not end")
        meter = self._rig.meter() - before
        return Timing(len(requests) * num_tokens, arrivals[-1] - began, meter, arrivals=arrivals)


class StockSide:
    """vLLM without us, in a process of its own; it sleeps while it is not asked. Use it in a `with`."""

    def __init__(self, model: str, **engine_args: Any) -> None:
        say(f"starting a stock engine on {model}")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve_stock, args=(theirs, os.getpid(), model, engine_args), name="stock-vllm")
        self._process.start()
        theirs.close()
        self._is_ready = False  # it loads while the caller goes on

    def __enter__(self) -> StockSide:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(0.5)
        if self._process.is_alive():  # loading, or in a step: nothing to lose
            self._process.kill()
            self._process.join()

    def wait_until_ready(self) -> None:
        """Before anything is measured beside it."""
        if not self._is_ready:
            self._answer()
            self._is_ready = True

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, top_k: int | None = None) -> Timing:
        """Decode all prompts together."""
        self.wait_until_ready()
        self._pipe.send((prompts, num_tokens, top_k))
        return Timing(len(prompts) * num_tokens, self._answer())

    def _answer(self) -> float:
        try:
            seconds: float = self._pipe.recv()
        except EOFError:
            raise Failed("the stock engine died") from None
        return seconds


def _serve_stock(pipe: Connection, parent: int, model: str, more: dict[str, Any]) -> None:
    follow(parent)
    try:
        engine_args = engine_arguments(model, **more)
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.executor.abstract import Executor

        config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        core = EngineCore(config, Executor.get_class(config), log_stats=False)
        pipe.send(0.0)
        while True:
            prompts, num_tokens, top_k = pipe.recv()
            requests = [make_request(p, num_tokens, top_k, core.request_block_hasher) for p in prompts]
            began = time.monotonic()
            for request in requests:
                core.add_request(request)
            left = len(requests)
            while left:
                outputs, executed = core.step_fn()
                core.post_step(executed)
                left -= sum(o.finish_reason is not None for eco in (outputs or {}).values() for o in eco.outputs)
            pipe.send(time.monotonic() - began)
            while core.scheduler.has_requests():  # workers forget what ended
                core.post_step(core.step_fn()[1])
    except (EOFError, KeyboardInterrupt):
        pass
    finally:
        os._exit(0)
