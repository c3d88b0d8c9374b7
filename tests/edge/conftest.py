import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass
class Server:
    """A server process with the fake host, and the command line against it."""

    run_dir: Path
    process: subprocess.Popen[str]

    def start(self, *words: str, **kwargs: object) -> subprocess.Popen[str]:
        return start(self.run_dir, *words, **kwargs)

    def run(self, *words: str, timeout_s: float = 60, **kwargs: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **kwargs)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @property
    def host_pid(self) -> int:
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return int(children.split()[0])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def start(run_dir: Path, *words: str, **kwargs: object) -> subprocess.Popen[str]:
    """`env` adds to an environment without settings of Symphony but the server's directories."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
    given = {"SYMPHONY_RUN_DIR": str(run_dir), "SYMPHONY_STATE_DIR": str(run_dir / "state"), "PYTHONPATH": str(ROOT)}
    env = {**inherited, **given, **(kwargs.pop("env", None) or {})}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(HERE / "symphony.py"), *words], env=env, **{**pipes, **kwargs})


@pytest.fixture(scope="session")
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
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
def server(fresh_server) -> Server:
    """One server for the tests that leave it as it was."""
    return fresh_server()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """gRPC's poller of a finished event loop closes its sockets when it is collected; errors that a test kept delay that."""
    yield
    gc.collect()


@pytest.fixture
def program(tmp_path: Path):
    """Writes a program's file."""

    def write(text: str, name: str = "prog.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write
