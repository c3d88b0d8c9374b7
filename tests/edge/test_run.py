"""symphony run and attach: programs outlive who looks at them, and are found again."""

import json
import signal

import pytest

from tests.edge.test_command_line import SPIN, eventually, lines

COUNT = """
from vllm_symphony import lip

async def main(n: int = 3) -> int:
    for i in range(n):
        print(i, flush=True)
    await lip.sleep(600)
"""
DEAF = "async def main():\n    print('deaf', flush=True)\n    while True:\n        pass\n"


def alive(server) -> list[int]:
    return [p["pid"] for p in json.loads(server.run("ps", "--json").stdout)]


def started(server, path: str, *words: str, **kwargs: object):
    """A run that has printed its first line, and its program's pid."""
    process = server.start("run", path, *words, **kwargs)
    process.stdout.readline()
    (pid,) = alive(server)
    return process, pid


def end(server, pid: int) -> None:
    server.run("kill", "-KILL", str(pid))
    assert eventually(lambda: alive(server) == [])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_program_outlives_a_closed_terminal_and_attach_shows_all_of_it(server, program, number):
    run, pid = started(server, program(COUNT))

    run.send_signal(number)
    run.communicate(timeout=60)
    attached = server.start("attach", str(pid))
    shown = [attached.stdout.readline() for _ in range(3)]
    server.run("kill", str(pid))
    attached.communicate(timeout=60)

    assert shown == ["0\n", "1\n", "2\n"]
    assert attached.returncode == 130  # the program's own


def test_ctrl_c_ends_attach_and_not_the_program(server, program):
    run, pid = started(server, program(COUNT), "--detach")
    run.communicate(timeout=60)
    attached = server.start("attach", str(pid))
    attached.stdout.readline()

    attached.send_signal(signal.SIGINT)
    _, err = attached.communicate(timeout=60)

    assert attached.returncode == 130
    assert err == f"symphony: process {pid} goes on; symphony attach {pid}\n"
    assert alive(server) == [pid]
    end(server, pid)


def test_ctrl_c_ends_the_program_where_attach_was_told_so(server, program):
    run, pid = started(server, program(COUNT), "--detach")
    run.communicate(timeout=60)
    attached = server.start("attach", str(pid), "--kill-on-interrupt")
    attached.stdout.readline()

    attached.send_signal(signal.SIGINT)
    _, err = attached.communicate(timeout=60)

    assert attached.returncode == 130
    assert "cancelling" in err
    assert alive(server) == []


def test_sigterm_cancels_the_program_as_ctrl_c_does(server, program):
    run, _ = started(server, program(SPIN))

    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)

    assert run.returncode == 130
    assert alive(server) == []


def test_detach_prints_the_pid_and_leaves_the_program_running(server, program):
    text = server.run("run", "--detach", program(SPIN))
    pid = int(text.stdout)
    again = server.run("run", "-d", "--json", program(SPIN))

    assert (text.returncode, again.returncode) == (0, 0)
    assert alive(server) == [pid, json.loads(again.stdout)["pid"]]
    server.run("kill", "-KILL", *map(str, alive(server)))
    assert eventually(lambda: alive(server) == [])


def test_attach_gives_the_value_and_the_exit_code_of_a_program_that_has_ended(server, program):
    well = json.loads(server.run("run", "-d", "--json", program("async def main():\n    print('out')\n    return [1]\n")).stdout)[
        "pid"
    ]
    badly = json.loads(server.run("run", "-d", "--json", program("async def main():\n    raise SystemExit(7)\n")).stdout)["pid"]
    assert eventually(lambda: alive(server) == [])

    first = server.run("attach", str(well))
    late = server.run("attach", str(well), "--from", "2", "--json")

    assert (first.returncode, first.stdout) == (0, "out\n[1]\n")
    assert [event["kind"] for event in lines(late.stdout)] == ["stdout", "exit", "result"]
    assert server.run("attach", str(badly)).returncode == 7
    assert server.run("attach", "999999").stderr.startswith("symphony: ESRCH")


def test_a_time_limit_cancels_and_the_exit_code_says_so(server, program):
    done = server.run("run", program(SPIN), "--timeout", "0.5")

    assert done.returncode == 124
    assert "symphony: its 0.5 s are over: ending it\n" in done.stderr
    assert alive(server) == []


def test_a_time_limit_kills_a_program_that_does_not_listen(server, program):
    done = server.run("run", program(DEAF), "--timeout", "0.5", "--json")

    assert done.returncode == 124
    assert lines(done.stdout)[-1]["code"] == 137


def test_a_program_that_is_done_in_time_has_its_own_exit_code(server, program):
    assert server.run("run", program("async def main():\n    raise SystemExit(7)\n"), "--timeout", "60").returncode == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--timeout", "0"], "is no number of seconds above 0"),
        (["--timeout", "soon"], "is no number of seconds above 0"),
        (["--timeout", "nan"], "is no number of seconds above 0"),
        (["--timeout", "5", "--detach"], "give one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused(server, program, words, message):
    done = server.run("run", *words, program(SPIN))

    assert done.returncode == 2
    assert message in done.stderr


def test_a_run_that_loses_its_server_for_good_says_how_to_find_the_program(fresh_server, program):
    server = fresh_server()
    run, pid = started(server, program(SPIN), env={"SYMPHONY_RECONNECT_S": "0.3"})

    server.stop(signal.SIGKILL)
    _, err = run.communicate(timeout=60)

    assert run.returncode == 69
    assert f"process {pid} goes on; symphony attach {pid}" in err


def test_ctrl_c_does_not_wait_for_a_server_that_is_gone(fresh_server, program):
    server = fresh_server()
    run, pid = started(server, program(SPIN), env={"SYMPHONY_RECONNECT_S": "600"})
    server.stop(signal.SIGKILL)

    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)

    assert run.returncode == 130
    assert f"process {pid} goes on; symphony attach {pid}" in err
