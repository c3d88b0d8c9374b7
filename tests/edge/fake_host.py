"""A kernel host for tests: the real kernel and reactor over a device that computes nothing.

Speaks the contract of edge/host_process.py. The model is called `fake`, a token is a Unicode code point, and the next token is
always the last one plus one. The model argument chooses how it behaves:

    fake        loads and serves                 refuse      says that it cannot, exit 2
    dumb        dies without a word, exit 3      slow        loads for ten seconds
"""

import argparse
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from vllm_symphony.abi.calls import TextResult, TokensResult
from vllm_symphony.abi.types import Distribution, ModelInfo, pack_floats, pack_tokens, unpack_tokens
from vllm_symphony.engine.reactor import Reactor
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.effect import (
    CancelJob,
    Capacity,
    Completion,
    ForwardDone,
    ForwardJob,
    GenerateDone,
    GenerateJob,
    GenerateTokens,
    JobFailed,
    Residency,
    StepSpan,
    TextDone,
    TextJob,
)  # fmt: skip
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.sched.view import QueueView

MODEL = ModelInfo(
    name="fake", vocab_size=0x110000, max_positions=4096, page_size=16, num_pages=256, max_top_k=20, eos_tokens=(0,), dtype="none"
)


class FakeDevice:
    """One thread; every job is one step."""

    model = MODEL

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._num_steps = 0

    def start(self, on_completions: Callable[[Sequence[Completion]], None], on_death: Callable[[BaseException], None]) -> None:
        self._on_completions = on_completions
        self._thread.start()

    def submit(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            self._jobs.put(effect)

    def stop(self) -> None:
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def job_state(self, job: int) -> tuple[str, str]:
        return "batch", ""

    def residency(self, ino: int) -> Residency:
        return Residency()

    def capacity(self) -> Capacity:
        return Capacity()

    def queue_view(self) -> QueueView:
        return QueueView()

    def counters(self) -> dict[str, float]:
        return {"steps": self._num_steps}

    def samples(self) -> tuple[()]:
        return ()

    def _main(self) -> None:
        while (effect := self._jobs.get()) is not None:
            if hasattr(effect, "job") and not isinstance(effect, CancelJob):
                self._on_completions(self._complete(effect))

    def _complete(self, effect: Any) -> list[Completion]:
        self._num_steps += 1
        span = StepSpan(self._num_steps, self._num_steps, 0.001)
        if isinstance(effect, TextJob):
            return [TextDone(effect.job, _text(effect))]
        if isinstance(effect, ForwardJob):
            rows = tuple(_row(effect.start + i, effect.tokens[i] if i >= 0 else 0) for i in effect.outputs)
            return [ForwardDone(effect.job, rows, span)]
        if isinstance(effect, GenerateJob):
            tokens = [ord("a") + i % 26 for i in range(effect.max_tokens)]
            progress = GenerateTokens(effect.job, tokens, [-1.0] * len(tokens), "".join(map(chr, tokens)))
            return [progress, GenerateDone(effect.job, "length", None, effect.start + len(tokens) - 1, None, span)]
        return [JobFailed(effect.job, NotSupported("the fake device cannot do that"))]


def _row(position: int, token: int) -> Distribution:
    return Distribution(position, pack_tokens([token + 1]), pack_floats([0.0]), 0.0, 0.0)


def _text(job: TextJob) -> Any:
    args: Any = job.args
    if job.op == "tokenize":
        return TokensResult(pack_tokens(map(ord, args.text)))
    if job.op == "render_chat":
        return TokensResult(pack_tokens(map(ord, json.loads(args.messages)[-1]["content"])))
    return TextResult("".join(map(chr, unpack_tokens(args.tokens))))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket")
    parser.add_argument("--status-fd", type=int)
    parser.add_argument("--log-level")
    parser.add_argument("--confinement", default="B")  # what it finds, for the edge
    ours, theirs = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    args, _ = parser.parse_known_args(ours)
    status = os.fdopen(args.status_fd, "w", buffering=1)
    behaviour = theirs[0] if theirs else "fake"

    def say(**message: Any) -> None:
        print(json.dumps(message), file=status)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    say(phase="loading model")
    if behaviour == "refuse":
        say(error=f"ENOENT: no such model: {behaviour}", exit=2)
        return 2
    if behaviour == "dumb":
        print("last words of the host", file=sys.stderr)
        return 3
    if behaviour == "slow" and stop.wait(10):
        return 0
    device = FakeDevice()
    kernel = Kernel(MODEL, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns(), info=lambda: {"engine": device.counters()})
    reactor = Reactor(kernel, device, socket_path=args.socket, principal="local")
    reactor.start()
    say(ready={"model": MODEL.name, "confinement": {"level": args.confinement, "active": ["seccomp"], "lacks": "user: none here"}})
    while not stop.wait(0.05) and os.getppid() != 1:
        pass
    reactor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
