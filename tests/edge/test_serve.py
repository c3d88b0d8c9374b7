"""The life of `symphony serve` with a fake host: start, stop, and every way to die."""

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.edge.test_command_line import SPIN, eventually


def sockets(run_dir: Path) -> list[str]:
    return sorted(p.name for p in run_dir.iterdir() if stat.S_ISSOCK(p.stat().st_mode))


def alive(pid: int) -> bool:
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()[:1] not in ("", "Z")


def log(server) -> str:
    return (server.run_dir / "serve.log").read_text()


def test_sockets_are_private(fresh_server):
    server = fresh_server()

    assert sockets(server.run_dir) == ["kernel.sock", "symphony.sock"]
    assert [stat.S_IMODE((server.run_dir / n).stat().st_mode) for n in sockets(server.run_dir)] == [0o600, 0o600]
    assert stat.S_IMODE(server.run_dir.stat().st_mode) == 0o700
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_cleanly(fresh_server, number):
    server = fresh_server()
    host = server.host_pid

    assert server.stop(number) == 0
    assert sockets(server.run_dir) == []
    assert not alive(host)


def test_stopping_ends_a_program_that_still_runs_after_the_grace(fresh_server, program):
    server = fresh_server("--grace", "0.2")
    run = server.start("run", program(SPIN))
    assert run.stdout.readline() == "spinning\n"

    assert server.stop() == 0
    _, err = run.communicate(timeout=60)

    assert run.returncode != 0
    assert "Traceback" not in err


def test_a_second_signal_stops_it_at_once(fresh_server, program):
    server = fresh_server("--grace", "600")
    run = server.start("run", program(SPIN))
    assert run.stdout.readline() == "spinning\n"
    host = server.host_pid

    server.process.send_signal(signal.SIGINT)
    assert eventually(lambda: "stopping" in log(server))
    server.process.send_signal(signal.SIGINT)

    assert server.process.wait(60) == 130
    run.communicate(timeout=60)
    assert sockets(server.run_dir) == []
    assert not alive(host)


def test_a_killed_host_ends_the_server_with_70(fresh_server, program):
    server = fresh_server()
    run = server.start("run", program(SPIN))
    assert run.stdout.readline() == "spinning\n"

    os.kill(server.host_pid, signal.SIGKILL)
    _, err = run.communicate(timeout=60)

    assert run.returncode in (1, 69)
    assert "ENODEV" in err or "no server" in err
    assert server.process.wait(60) == 70
    assert "the kernel host ended by signal 9" in log(server)
    assert sockets(server.run_dir) == []


def test_a_killed_server_takes_its_host_along_and_leaves_no_obstacle(fresh_server):
    server = fresh_server()
    host = server.host_pid

    server.process.kill()
    server.process.wait(60)

    assert eventually(lambda: not alive(host))
    again = server.start("serve")
    assert server.run("info", "--wait", "60").returncode == 0
    again.terminate()
    again.communicate(timeout=60)
    assert again.returncode == 0


def test_a_second_server_on_the_same_run_directory_is_refused(fresh_server):
    server = fresh_server()

    second = server.run("serve")

    assert second.returncode == 1
    assert f"EEXIST: a server already runs in {server.run_dir} (process {server.process.pid})" in second.stderr
    assert server.run("info").returncode == 0
    server.stop()


def test_a_host_that_refuses_says_why_and_chooses_the_exit_code(fresh_server):
    server = fresh_server("refuse", ready=False)

    assert server.process.wait(60) == 2
    assert "symphony: ENOENT: no such model: refuse" in log(server)
    assert sockets(server.run_dir) == []


def test_a_host_that_dies_without_a_word_is_70(fresh_server):
    server = fresh_server("dumb", ready=False)

    assert server.process.wait(60) == 70
    assert "exit code 3" in log(server)


def test_calls_while_it_starts_are_told_to_come_again(fresh_server):
    server = fresh_server("slow", ready=False)
    assert eventually(lambda: "loading model" in log(server))

    done = server.run("ps")

    assert done.returncode == 1
    assert "EAGAIN: the server is starting: loading model" in done.stderr
    assert server.stop() == 0


def test_flags_of_the_engine_go_to_the_host_in_order(fresh_server):
    server = fresh_server("fake", "--max-model-len", "4096")

    command = Path(f"/proc/{server.host_pid}/cmdline").read_text().split("\0")

    assert command[command.index("--") :] == ["--", "fake", "--max-model-len", "4096", ""]
    server.stop()


def test_a_socket_in_a_directory_that_does_not_exist_is_refused(fresh_server):
    server = fresh_server("refuse", ready=False)
    server.process.wait(60)

    done = server.run("serve", "--socket", "/nowhere/s.sock")

    assert done.returncode == 1
    assert done.stderr.endswith("symphony: EACCES: cannot listen on /nowhere/s.sock: the directory does not exist\n")


def test_too_long_a_socket_path_is_refused_with_the_limit(fresh_server, tmp_path):
    server = fresh_server("refuse", ready=False)
    server.process.wait(60)

    done = server.run("serve", "--socket", str(tmp_path / ("x" * 120)))

    assert done.returncode == 1
    assert "ENAMETOOLONG" in done.stderr and "107" in done.stderr
