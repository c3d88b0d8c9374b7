"""vLLM's OpenAI server as a side of a comparison, with Symphony in it or without (benchmarks/web.py).

    WebServer(model)                         python -m vllm.entrypoints.openai.api_server ...           the user's own launch line
    WebServer(model, with_symphony=True)     the same line, with VLLM_PLUGINS=symphony                  plugin mode

A client of its own process would be fairer to a large machine; on a small one both sides pay the same for this one. Streams are
`/v1/completions` on token ids, greedy, without an end: what comes is counted and timed, nothing is parsed but the frames.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.apart import Failed
from benchmarks.rig import ROOT, TINY, Meter, say
from benchmarks.session import Session
from benchmarks.stats import cpu_time_s, median

START_S = 300.0
STOP_S = 30.0
MAX_MODEL_LEN = 2048
KV_CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Streamed:
    """What `n` streams took together, from the first request's sending to the last token's arrival."""

    num_tokens: int
    seconds: float
    ttft_s: float  # median over the streams: until its first token
    itl_s: float  # median over the streams: mean time between its tokens
    cpu_s: float  # of the whole server
    began: float  # `time.monotonic`
    arrivals: list[list[float]]  # of each stream's tokens, `time.monotonic`

    @property
    def rate(self) -> float:
        return self.num_tokens / self.seconds


class WebServer:
    """One server in a process of its own; it sleeps while it is not asked. Use it in a `with`."""

    def __init__(self, model: str, *, with_symphony: bool = False, flags: Sequence[str] = (), words: Sequence[str] = ()) -> None:
        """`flags`: of vLLM. `words`: of `symphony serve`."""
        self._words = list(words)
        self._folder = tempfile.TemporaryDirectory(prefix="symphony-bench-")
        self.run_dir = Path(self._folder.name, "run")
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._session: Session | None = None
        self._log = Path(self._folder.name, "server.log")
        kind = "vLLM with symphony" if with_symphony else "vLLM"
        say(f"starting {kind} on {model}")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(model, flags), env=self._environment(with_symphony), cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, process_group=0,
            )  # fmt: skip

    def _command(self, model: str, flags: Sequence[str]) -> list[str]:
        path, more = model, list[str]()
        if model == "tiny":
            path, more = str(TINY), ["--dtype", "float32"]
        elif model == "small":
            from vllm_symphony.model import ensure_default_model

            path = str(ensure_default_model(progress=say))
        port = self.url.rpartition(":")[2]
        return [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path, "--served-model-name", "bench",
            "--host", "127.0.0.1", "--port", port, "--max-model-len", str(MAX_MODEL_LEN), "--seed", "0", "--block-size", "32",
            "--kv-cache-memory-bytes", str(KV_CACHE_BYTES), "--uvicorn-log-level", "warning", *more, *flags,
        ]  # fmt: skip

    def _environment(self, with_symphony: bool) -> dict[str, str]:
        """Both sides get what `symphony serve` would set (engine/defaults.py)."""
        cores = len(os.sched_getaffinity(0))
        env = {
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores - 1))),
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_USE_V2_MODEL_RUNNER": "0",
            "VLLM_PLUGINS": "symphony" if with_symphony else "",
        }
        if with_symphony:
            flags = ["--run-dir", str(self.run_dir), "--state-dir", str(Path(self._folder.name, "state")), "--log-level", "warning"]
            flags += self._words
            env["SYMPHONY_SERVE_FLAGS"] = shlex.join(flags)
        return env

    def __enter__(self) -> WebServer:
        deadline = time.monotonic() + START_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-3000:]
                self.__exit__()
                raise Failed(f"the server did not start:\n{tail}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._folder.cleanup()

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def session(self) -> Session:
        """A client of the kernel's socket. With Symphony only."""
        if self._session is None:
            self._session = Session(str(self.run_dir / "kernel.sock"))
        return self._session

    @property
    def memory_bytes(self) -> int:
        """Of all its processes; what several share is counted once (PSS)."""
        root = psutil.Process(self._process.pid)
        return sum(p.memory_full_info().pss for p in (root, *root.children(recursive=True)))

    def cpu_s(self) -> float:
        return cpu_time_s(self._process.pid)

    @property
    def vocab_size(self) -> int:
        """With Symphony only."""
        size: int = self.session.call("model_info").vocab_size
        return size

    def meter(self) -> Meter:
        return Meter(time.monotonic(), {"server": self.cpu_s()}, {})

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Streamed:
        """Stream `num_tokens` after each prompt, all at once."""
        return asyncio.run(self.stream(prompts, num_tokens))

    async def stream(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Streamed:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=START_S)
        cpu_s = self.cpu_s()
        async with aiohttp.ClientSession(self.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            began = time.monotonic()
            arrivals = list(await asyncio.gather(*(self._one(http, p, num_tokens) for p in prompts)))
        ended = max(a[-1] for a in arrivals)
        return Streamed(
            num_tokens=len(prompts) * num_tokens,
            seconds=ended - began,
            ttft_s=median([a[0] - began for a in arrivals]),
            itl_s=median([(a[-1] - a[0]) / max(1, len(a) - 1) for a in arrivals]),
            cpu_s=self.cpu_s() - cpu_s,
            began=began,
            arrivals=arrivals,
        )

    async def _one(self, http: Any, prompt: Sequence[int], num_tokens: int) -> list[float]:
        """When each token of a stream came. Several in one event came at the same time."""
        body = {"model": "bench", "prompt": list(prompt), "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True,
                "stream": True, "return_token_ids": True}  # fmt: skip
        arrivals: list[float] = []
        async with http.post("/v1/completions", json=body) as answer:
            if answer.status != 200:
                raise Failed(f"{answer.status}: {(await answer.text())[:500]}")
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    (choice,) = json.loads(line[6:])["choices"]
                    arrivals += [now] * len(choice["token_ids"] or ())
        if len(arrivals) != num_tokens:
            raise Failed(f"a stream of {num_tokens} tokens had {len(arrivals)}")
        return arrivals


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
