"""The commands against a real server with a device that computes nothing (fake_host.py)."""

import json
import signal
import time

import pytest

HELLO = '''
from vllm_symphony import lip

async def main(who: str, n: int = 2) -> dict:
    """Greet.

    Args:
        who: whom
    """
    print("hello", who)
    lip.emit({"n": n})
    return {"who": who, "n": n}
'''
SPIN = """
from vllm_symphony import lip

async def main():
    print("spinning", flush=True)
    await lip.sleep(600)
"""
KEEP = """
from vllm_symphony import lip

async def main(path: str, text: str):
    async with lip.open(tokens=lip.tokenize(text)) as file:
        await file.link(path)
"""


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_shows_output_emitted_values_and_the_return_value(server, program):
    done = server.run("run", program(HELLO), "--who", "world", "--n", "3")

    assert done.returncode == 0, done.stderr
    assert done.stdout == 'hello world\n{"n": 3}\n{"who": "world", "n": 3}\n'
    assert done.stderr == ""


def test_run_json_gives_each_event_and_the_result_as_a_line(server, program):
    done = server.run("run", program(HELLO), "--who", "world", "--json")

    events = lines(done.stdout)
    assert [e["kind"] for e in events] == ["started", "stdout", "emit", "exit", "result"]
    assert [e["seq"] for e in events[:-1]] == [1, 2, 3, 4]
    assert events[-1]["value"] == {"who": "world", "n": 2}
    assert events[-1]["code"] == 0


def test_run_stats_say_what_it_cost(server, program):
    done = server.run("run", program(HELLO), "--who", "x", "--stats")

    assert "tokens in" in done.stderr and "exit 0" in done.stderr


def test_run_help_shows_the_programs_own_options_without_a_server(server, program):
    done = server.run("run", program(HELLO), "--help")

    assert done.returncode == 0
    assert "Greet." in done.stdout and "--who WHO" in done.stdout and "whom" in done.stdout and "(default: 2)" in done.stdout


def test_run_ends_with_the_programs_exit_code_and_its_traceback(server, program):
    done = server.run("run", program("async def main():\n    raise ValueError('no luck')\n"))

    assert done.returncode == 1
    assert "line 2" in done.stderr and "ValueError: no luck" in done.stderr


@pytest.mark.parametrize(
    ("text", "words", "code", "message"),
    [
        ("async def main(:\n", [], 1, "ENOEXEC"),
        ("async def other():\n    pass\n", [], 1, "no function main"),
        (HELLO, [], 2, "--who"),
        (HELLO, ["--who", "x", "--n", "many"], 2, "invalid int"),
        (HELLO, ["--who", "x", "--colour", "red"], 2, "--colour"),
    ],
)
def test_run_refuses_what_does_not_fit_before_anything_starts(server, program, text, words, code, message):
    done = server.run("run", program(text), *words)

    assert done.returncode == code
    assert message in done.stderr


def test_run_of_a_missing_file_is_an_error(server):
    done = server.run("run", "/nowhere/prog.py")

    assert done.returncode == 1
    assert done.stderr == "symphony: ENOEXEC: cannot read /nowhere/prog.py: No such file or directory\n"


def test_ctrl_c_cancels_the_program(server, program):
    process = server.start("run", program(SPIN))
    assert process.stdout.readline() == "spinning\n"

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "cancelling" in err
    assert json.loads(server.run("ps", "--json").stdout) == []


def test_a_second_ctrl_c_kills_a_program_that_does_not_listen(server, program):
    process = server.start("run", program("async def main():\n    print('deaf', flush=True)\n    while True:\n        pass\n"))
    assert process.stdout.readline() == "deaf\n"

    process.send_signal(signal.SIGINT)
    assert "cancelling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert process.returncode == 130
    assert json.loads(server.run("ps", "--json").stdout) == []


def test_output_into_a_closed_pipe_ends_the_program_quietly(server, program):
    process = server.start("run", program("async def main():\n    while True:\n        print('x' * 1000)\n"))
    process.stdout.readline()

    process.stdout.close()
    process.wait(60)

    assert process.stderr.read() == ""
    process.stderr.close()
    assert eventually(lambda: json.loads(server.run("ps", "--json").stdout) == [])


def test_ps_kill_and_logs_of_a_running_program(server, program):
    run = server.start("run", program(SPIN, "spinner.py"))
    assert run.stdout.readline() == "spinning\n"

    (process,) = json.loads(server.run("ps", "--json").stdout)
    table = server.run("ps").stdout
    following = server.start("logs", "-f", str(process["pid"]))
    assert following.stdout.readline() == "spinning\n"
    killed = server.run("kill", "-KILL", str(process["pid"]))

    assert process["name"] == "spinner" and process["waiting"] == ["sleep"]
    assert "spinner" in table and "sleep" in table
    assert killed.returncode == 0
    assert run.wait(60) == 137
    assert following.wait(60) == 0
    run.communicate()
    following.communicate()


def test_logs_tail_and_since_choose_events(server, program):
    server.run("run", program("async def main():\n    for i in range(5):\n        print(i, flush=True)\n"))
    pid = str(json.loads(server.run("ps", "--all", "--json").stdout)[-1]["pid"])

    everything = lines(server.run("logs", pid, "--json").stdout)
    tail = lines(server.run("logs", pid, "--json", "--tail", "1").stdout)

    assert everything[0]["kind"] == "started" and everything[-1]["kind"] == "exit"
    assert tail == everything[-1:]
    assert lines(server.run("logs", pid, "--json", "--since", "1h").stdout) == everything
    assert lines(server.run("logs", pid, "--json", "--since", "2100-01-01").stdout) == []


def test_files_are_listed_shown_read_and_removed(server, program):
    assert server.run("mkdir", "/kb").returncode == 0
    assert server.run("run", program(KEEP), "--path", "/kb/doc", "--text", "abc").returncode == 0

    listed = json.loads(server.run("ls", "/kb/", "--json").stdout)
    stat = json.loads(server.run("stat", "/kb/doc", "--json").stdout)
    read = json.loads(server.run("cat", "/kb/doc", "--json").stdout)

    assert stat.pop("xattrs") == {}
    assert listed == [stat]
    assert (stat["path"], stat["length"]) == ("/kb/doc", 3)
    assert server.run("ls", "/kb").stdout == "doc\n"
    assert server.run("cat", "/kb/doc").stdout == "abc\n"
    assert server.run("cat", "/kb/doc", "--tokens", "--offset", "1", "--count", "1").stdout == "1\t98\n"
    assert read == {"tokens": [97, 98, 99], "positions": [0, 1, 2], "length": 3, "text": "abc"}
    assert server.run("rm", "/kb/doc").returncode == 0
    assert json.loads(server.run("ls", "/kb/", "--json").stdout) == []
    assert server.run("rmdir", "/kb").returncode == 0


def test_strace_shows_the_calls_of_a_program(server, program):
    server.run("run", program(KEEP), "--path", "/traced", "--text", "abc")
    pid = str(json.loads(server.run("ps", "-a", "--json").stdout)[-1]["pid"])

    records = lines(server.run("strace", pid, "--json").stdout)
    text = server.run("strace", pid).stdout

    assert [r["op"] for r in records] == ["tokenize", "open", "link", "close", "exit"]
    assert "open(" in text and "= ok" in text
    server.run("rm", "/traced")


def test_strace_follows_until_the_program_ends(server, program):
    run = server.start("run", program(SPIN))
    run.stdout.readline()
    (process,) = json.loads(server.run("ps", "--json").stdout)

    strace = server.start("strace", "-f", str(process["pid"]))
    server.run("kill", str(process["pid"]))
    out, _ = strace.communicate(timeout=60)
    run.communicate(timeout=60)

    assert "sleep(" in out


def test_info_names_the_model_and_the_counters(server):
    info = json.loads(server.run("info", "--json").stdout)

    assert info["model"] == "fake"
    assert info["detail"]["kernel"]["programs"] == 0
    assert set(info) == {"version", "abi", "uptime_s", "model", "ping_s", "detail"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["stat", "/nowhere"], 1, "symphony: ENOENT: no such file: /nowhere"),
        (["cat", "/nowhere"], 1, "ENOENT"),
        (["rm", "/nowhere"], 1, "ENOENT"),
        (["kill", "999999"], 1, "symphony: ESRCH: no such process: 999999"),
        (["logs", "999999"], 1, "ESRCH"),
        (["strace", "999999"], 1, "ESRCH"),
        (["ps", "999999"], 1, "ESRCH"),
        (["ps", "many"], 2, "is no number from 0 on"),
        (["kill"], 2, "required"),
        (["kill", "-HUP", "1"], 2, "unrecognized"),
        (["cat"], 2, "required"),
        (["logs", "1", "--since", "soon"], 2, "neither like"),
        (["logs", "1", "--tail", "-1"], 2, "--tail"),
        (["ls", "kb"], 2, "is no path: it must begin with '/'"),
        (["run"], 2, "PROGRAM"),
        (["fly"], 2, "no such command: fly"),
        ([], 2, ""),
    ],
)
def test_wrong_words_are_one_line_and_an_exit_code(server, words, code, message):
    done = server.run(*words)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_rm_force_does_not_mind_what_is_gone(server):
    assert server.run("rm", "-f", "/nowhere").returncode == 0


def test_without_a_server_every_command_says_how_to_start_one(server, tmp_path):
    for words in (["ps"], ["ls"], ["info"], ["kill", "1"]):
        done = server.run(*words, "--socket", str(tmp_path / "none.sock"))

        assert done.returncode == 69
        assert done.stderr.endswith("(start one with: symphony serve)\n")


def eventually(condition, timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True
