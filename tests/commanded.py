"""`symphony serve` started by its command line, as a user does, and commands against it; fixtures for the whole suite."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYMPHONY = ROOT / "tests" / "symphony.py"


@dataclass
class Server:
    """A server process, and the command line against it."""

    run_dir: Path
    process: subprocess.Popen[str]

    def start(self, *words: str, **kwargs: object) -> subprocess.Popen[str]:
        return start(self.run_dir, *words, **kwargs)

    def run(self, *words: str, timeout_s: float = 60, **kwargs: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **kwargs)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def python(self, source: str) -> subprocess.CompletedProcess[str]:
        """A client's program, run by Python where it finds the server."""
        env = environment(self.run_dir)
        return subprocess.run([sys.executable, "-c", source], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)

    @property
    def host_pid(self) -> int:
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return int(children.split()[0])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def environment(run_dir: Path) -> dict[str, str]:
    """Ours, without settings of Symphony but the server's directories."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
    given = {"SYMPHONY_RUN_DIR": str(run_dir), "SYMPHONY_STATE_DIR": str(run_dir / "state"), "PYTHONPATH": str(ROOT)}
    return inherited | given


def start(run_dir: Path, *words: str, **kwargs: object) -> subprocess.Popen[str]:
    env = {**environment(run_dir), **(kwargs.pop("env", None) or {})}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(SYMPHONY), *words], env=env, **{**pipes, **kwargs})


@pytest.fixture(scope="session")
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Makes servers; those that still run at the end are killed."""
    made: list[subprocess.Popen[str]] = []

    def make(*words: str, ready: bool = True) -> Server:
        run_dir = tmp_path_factory.mktemp("run")
        with (run_dir / "serve.log").open("w") as log:
            process = start(run_dir, "serve", *words, stdout=log, stderr=log)
        made.append(process)
        server = Server(run_dir, process)
        if ready:
            done = server.run("info", "--wait", "60", "--json")
            assert done.returncode == 0, done.stderr + (run_dir / "serve.log").read_text()
        return server

    yield make
    for process in made:
        if process.poll() is None:
            process.kill()
            process.wait(60)


@pytest.fixture(scope="session")
def sim_server(fresh_server: Callable[..., Server]) -> Server:
    """One server on the simulator, for tests that leave it as it was."""
    return fresh_server("--device", "sim")
