import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
MODEL = "tiny"
START_S = 240.0
FLAGS = (
    "--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", "2048", "--block-size", "32", "--max-num-seqs", "64",
    "--max-num-batched-tokens", "512", "--num-gpu-blocks-override", "513", "--enable-prompt-tokens-details",
    "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
)  # fmt: skip
_HTTP = re.compile(r"listening on .*(http://[\d.]+:\d+)")


@dataclass
class ServerB:
    """vLLM's OpenAI server with the kernel in its engine process, and what tests need of it."""

    http: str
    run_dir: Path
    state_dir: Path
    process: subprocess.Popen[str]
    num_tokens: int = 0

    @property
    def socket(self) -> Path:
        return self.run_dir / "symphony.sock"

    def token(self, principal: str, **more: Any) -> str:
        """A new token."""
        self.num_tokens += 1
        token, text = make(f"{principal}-{self.num_tokens}", principal, now_s=time.time(), **{"scopes": ("run",), **more})
        TokenFile(self.state_dir).add(token)
        return text

    def log(self) -> str:
        return (self.run_dir / "serve.log").read_text()


def start(run_dir: Path, command: list[str], **env: str) -> ServerB:
    """Start a server that says where it listens, and wait for that."""
    state_dir = run_dir / "state"
    given = {"SYMPHONY_RUN_DIR": str(run_dir), "SYMPHONY_STATE_DIR": str(state_dir), "PYTHONPATH": str(ROOT), **env}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
    with (run_dir / "serve.log").open("w") as log:
        process = subprocess.Popen(command, env={**inherited, **given}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
    server = ServerB("", run_dir, state_dir, process)
    deadline = time.monotonic() + START_S
    while not (said := _HTTP.search(server.log())):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no server: {server.log()[-4000:]}")
        time.sleep(0.1)
    server.http = said[1]
    return server


def stop(server: ServerB) -> int:
    """End it, and give its exit code."""
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(60)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise


@pytest.fixture(scope="session")
def server_b(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerB]:
    """The session's one server with the kernel in vLLM's engine process."""
    command = [sys.executable, "-m", "vllm_symphony.cli.main", "serve", "--http", "127.0.0.1:0", str(TINY), *FLAGS]
    server = start(tmp_path_factory.mktemp("b"), command)
    yield server
    stop(server)
