"""How servers of the drop-in start and end, in both ways of starting them: nothing is left, what was to be kept is kept, and what
went wrong is told in one line."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.conformance.host import eventually
from tests.counts import FULL
from tests.dropin.server import TINY, Served, serve_vllm
from tests.unit.engine.reactor_rig import WAIT_S
from vllm_symphony.abi.calls import FdArgs, Link, Mkdir, Open, Read, Spawn, Sync
from vllm_symphony.abi.types import pack_tokens, unpack_tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("engine_b"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not FULL, reason="each start of a server takes a minute: at full counts only"),
]
KEPT = list(range(40, 140))
RUNS = "from vllm_symphony import lip\nasync def main():\n    await lip.sleep(600)\n"


def ready(served: Served) -> Served:
    if served.http:  # vLLM's own launch line
        eventually_up(served)
    else:
        served.wait_ready()
    return served


def eventually_up(served: Served) -> None:
    def up() -> bool:
        assert served.process.poll() is None, served.said()[-3000:]
        try:
            return served.ask("/health").status == 200 and served.kernel_socket.exists()
        except OSError:
            return False

    for _ in range(10):  # each waits a minute
        try:
            eventually(up, "not up")
            return
        except AssertionError:
            if served.process.poll() is not None:
                raise
    raise AssertionError(served.said()[-3000:])


def busy(served: Served) -> list[psutil.Process]:
    """A kept file, a program that runs, a plain request answered; gives all processes of the server."""
    with served.client() as client:
        client.ask("mkdir", Mkdir("/kb"))
        fd = client.ask("open", Open(tokens=pack_tokens(KEPT))).fd
        client.ask("link", Link(fd, "/kb/kept"))
        client.ask("sync", Sync(fd))
        client.ask("close", FdArgs(fd))
    assert len(served.tokens(KEPT, 4)) == 4
    with served.client() as client:
        client.ask("spawn", Spawn(RUNS, "main", "{}", "runs.py"))
        return served.processes()


def kept(served: Served) -> list[int]:
    with served.client() as client:
        fd = client.ask("open", Open("/kb/kept")).fd
        found: list[int] = unpack_tokens(client.ask("read", Read(fd)).tokens)
        return found


def assert_gone(served: Served, processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=WAIT_S)
    assert not alive, alive
    assert {p.name for p in served.run_dir.iterdir()} <= {"server.lock", "kernel.log"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.keeps("children")  # the server's own are orphans for a moment
@pytest.mark.parametrize("victim", ["engine", "web", "edge"])
def test_whatever_of_it_is_killed_all_of_it_ends_and_the_next_start_has_the_files(own_server, victim):
    served = ready(own_server())
    processes = busy(served)

    {"engine": served.engine, "web": served.web, "edge": processes[0]}[victim].kill()

    served.process.wait(WAIT_S)
    if victim == "edge":  # nobody cleans the run directory then: the next start does
        psutil.wait_procs(processes, timeout=WAIT_S)
    else:
        assert served.process.returncode == 70
        assert_gone(served, processes)
    served.log.unlink()
    again = ready(own_server())
    assert kept(again) == KEPT
    processes = again.processes()
    assert again.stop() == 0
    assert_gone(again, processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_under_vllms_launch_line_it_keeps_files_and_leaves_nothing(own_server, number):
    served = ready(own_server(by=serve_vllm, port=free_port()))
    processes = busy(served)

    os.killpg(served.process.pid, number) if number == signal.SIGINT else served.process.send_signal(number)

    served.process.wait(WAIT_S)
    assert_gone(served, processes)
    again = ready(own_server(by=serve_vllm, port=free_port()))
    assert kept(again) == KEPT
    processes = again.processes()
    again.web.kill()
    psutil.wait_procs(processes, timeout=WAIT_S)
    assert_gone(again, processes)


@pytest.mark.parametrize(
    ("flags", "model", "code", "said"),
    [
        (("--no-such-flag",), str(TINY), 2, "vLLM refused the arguments"),
        ((), "/nowhere/model", 1, "/nowhere/model"),
        (("--data-parallel-size", "2"), str(TINY), 1, "use --data-parallel-size 1"),
        (("--scheduler-cls", "my.Scheduler"), str(TINY), 1, "drop --scheduler-cls my.Scheduler"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(own_server, flags, model, code, said):
    served = own_server(*flags, model=model)

    assert served.process.wait(WAIT_S * 3) == code

    (line,) = [line for line in served.said().splitlines() if line.startswith("symphony: ")]
    assert said in line
    assert not (Path(served.run_dir) / "symphony.sock").exists()


def test_a_port_that_is_taken_is_named(own_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        served = own_server(ours=("--http", str(port)))

        assert served.process.wait(WAIT_S * 3) == 1
    assert f"symphony: cannot listen on http://127.0.0.1:{port}: Address already in use" in served.said()
