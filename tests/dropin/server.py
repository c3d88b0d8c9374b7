"""`symphony serve --http` on the tiny model, as the tests of the drop-in have it (tests/dropin/server.py).

    serve (edge) -- web (vLLM's API server) -- engine (vLLM's EngineCore, with the kernel) -- worker

The engine process also has a *probe* (probe.py), by an entry point that only these servers see: it looks at the kernel and the
engine between two steps, and holds the engine where a test says so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil

from tests.unit.engine.reactor_rig import Client

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
LOOK = Path(__file__).with_name("look.py")
PAGE = 32  # tokens
NUM_PAGES = 256
MAX_LENGTH = 2048
START_S = 400.0  # a machine with two cores and much else to do
STOP_S = 90.0
FLAGS = (
    "--dtype", "float32", "--max-model-len", str(MAX_LENGTH), "--block-size", str(PAGE), "--num-gpu-blocks-override",
    str(NUM_PAGES + 1), "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "64", "--max-num-batched-tokens", "512",
    "--enforce-eager", "--seed", "0", "--served-model-name", "tiny",
)  # fmt: skip
TOOL_FLAGS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-prompt-tokens-details")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What the servers of these tests are started with: one thread, no compiler, the probe's entry point."""
    info = folder / "site" / "symphony_probe-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: symphony-probe\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nsymphony_probe = tests.dropin.probe:register\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SYMPHONY_", "VLLM_"))}
    return {
        **inherited, "PYTHONPATH": f"{info.parent}:{ROOT}", "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_PLUGINS": "symphony_probe",
        "SYMPHONY_PROBE": str(folder / "probe.sock"), **more,
    }  # fmt: skip


@dataclass
class Answer:
    """An HTTP answer: its status, headers and JSON (or text)."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Served:
    """A server that is on its way, and what it listens on when it is ready."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.run_dir = folder / "run"
        self.state_dir = folder / "state"
        self.socket = self.run_dir / "symphony.sock"
        self.kernel_socket = self.run_dir / "kernel.sock"
        self.log = folder / "log"
        self.http = ""

    # ---- its life

    def wait_ready(self, timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while "ready, listening" not in (said := self.said()):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{said[-3000:]}"
            assert time.monotonic() < deadline, said[-3000:]
            time.sleep(0.1)
        self.http = next(
            w for line in said.splitlines() if "ready, listening" in line for w in line.split() if w.startswith("http")
        )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait until it has; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End all of it."""
        for process in self.processes():
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """It and all that it started."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def engine(self) -> psutil.Process:
        with self.client() as client:
            from vllm_symphony.abi.calls import NoArgs

            return psutil.Process(json.loads(client.ask("info", NoArgs()).json)["pid"])

    @property
    def web(self) -> psutil.Process:
        return self.engine.parent()

    # ---- asking it

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the kernel's own socket, as the server's own user."""
        client = Client(str(self.kernel_socket))
        try:
            yield client
        finally:
            client.close()

    def ask(self, path: str, body: Any = None, *, method: str | None = None, timeout_s: float = 120.0, **headers: str) -> Answer:
        """GET, or POST where there is a body (`{}` counts)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.http + path, data, {"Content-Type": "application/json", **headers}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return _answer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as e:
            return _answer(e.code, e.read(), e.headers)

    def complete(self, prompt: Any, max_tokens: int = 16, **more: Any) -> dict[str, Any]:
        """A plain completion that must work; greedy, with the ids of its tokens."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True,
                "return_token_ids": True, **more}  # fmt: skip
        answer = self.ask("/v1/completions", body)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.body
        return found

    def tokens(self, prompt: Any, max_tokens: int = 16, **more: Any) -> list[int]:
        """The ids that a plain completion gives."""
        ids: list[int] = self.complete(prompt, max_tokens, **more)["choices"][0]["token_ids"]
        return ids

    def probe(self, do: str, **args: Any) -> Any:
        """Have a function of look.py run in the engine process, and give what it gave."""
        with self._asked_of_probe(do, args=args, look=LOOK.read_text()) as answers:
            answer = json.loads(answers.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine takes what comes, and begins no step meanwhile."""
        with self._asked_of_probe("hold") as answers:
            assert json.loads(answers.readline()) == {"value": None}
            yield

    @contextmanager
    def held_amid(self) -> Iterator[Callable[[], None]]:
        """As `held`, from the end of the next step that leaves a request running; gives what waits for that."""

        def wait() -> None:
            assert json.loads(answers.readline()) == {"value": None}

        with self._asked_of_probe("hold amid") as answers:
            wait()  # it is armed
            yield wait

    @contextmanager
    def _asked_of_probe(self, do: str, **words: Any) -> Iterator[TextIO]:
        """The probe's answers, a line each."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(120.0)
            probe.connect(str(self.folder / "probe.sock"))
            probe.sendall(json.dumps({"do": do, **words}).encode() + b"\n")
            with probe.makefile() as answers:
                yield answers


def _answer(status: int, data: bytes, headers: Any) -> Answer:
    text = data.decode(errors="replace")
    try:
        return Answer(status, json.loads(text), dict(headers))
    except ValueError:
        return Answer(status, text, dict(headers))


def serve(folder: Path, *flags: str, model: str = str(TINY), ours: tuple[str, ...] = (), **env: str) -> Served:
    """Start `symphony serve --http` in `folder`; `flags` are vLLM's, `ours` are ours."""
    folder.mkdir(parents=True, exist_ok=True)
    command = (
        sys.executable, "-m", "vllm_symphony.cli.main", "serve", "--http", "127.0.0.1:0", "--run-dir", str(folder / "run"),
        "--state-dir", str(folder / "state"), *ours, model, *FLAGS, *flags,
    )  # fmt: skip
    return started(folder, command, **env)


def serve_vllm(folder: Path, *flags: str, port: int, ours: str = "", **env: str) -> Served:
    """Start vLLM's own OpenAI server, with us as its plugin."""
    folder.mkdir(parents=True, exist_ok=True)
    words = f"--run-dir {folder / 'run'} --state-dir {folder / 'state'} {ours}"
    command = (
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY), "--host", "127.0.0.1",
        "--port", str(port), *FLAGS, *flags,
    )  # fmt: skip
    env = {"VLLM_PLUGINS": "symphony,symphony_probe", "SYMPHONY_SERVE_FLAGS": words, **env}
    served = started(folder, command, **env)
    served.http = f"http://127.0.0.1:{port}"
    return served


def found(folder: Path) -> Served:
    """A server that runs there already, for who works on the tests (`python -m tests.dropin.server FOLDER` starts one)."""
    served = Served(folder, _Elsewhere())  # type: ignore[arg-type]
    served.wait_ready()
    return served


class _Elsewhere:
    """A process that is not our child."""

    pid, returncode = 0, None

    def poll(self) -> None: ...


def started(folder: Path, command: tuple[str, ...], **env: str) -> Served:
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(folder, **env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Served(folder, process)


if __name__ == "__main__":
    here = Path(sys.argv[1]).absolute()
    running = serve(here, *TOOL_FLAGS, *sys.argv[2:])
    running.wait_ready()
    print(running.http, flush=True)
    sys.exit(running.process.wait())
