"""strace, why and trace against a server as `symphony serve --device sim` makes it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.trace.opened import check

ROOT = Path(__file__).parents[2]
FAMILY = '''
from vllm_symphony import lip

async def draft(prompt):
    async with prompt.fork() as file:
        await file.generate(5, ignore_eos=True)

async def child():
    async with lip.open(text="child") as file:
        await file.forward()

async def main(rest: float = 0.0):
    """A program with threads and a child, that rests at the end."""
    async with lip.open(text="wolpertinger") as prompt, lip.group() as g:
        await prompt.forward()
        for _ in range(2):
            g.start(draft, prompt)
    await (await lip.spawn(child)).wait()
    print("rests", flush=True)
    await lip.sleep(rest)
'''


class SimServer:
    """`symphony serve --device sim`, and commands against it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        directories = {"SYMPHONY_RUN_DIR": str(folder / "run"), "SYMPHONY_STATE_DIR": str(folder / "state")}
        self.environment = os.environ | directories | {"PYTHONPATH": str(ROOT)}
        self.environment.pop("SYMPHONY_SOCKET", None)
        self.log = (folder / "serve.log").open("w")
        self.process = self.start("serve", "--device", "sim", "--grace", "20", *words, stdout=self.log, stderr=self.log)
        assert self.run("info", "--wait", "60").returncode == 0, (folder / "serve.log").read_text()
        (folder / "prog.py").write_text(FAMILY)

    def start(self, *words: str, **more: object) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "vllm_symphony.cli.main", *words]
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, **{**pipes, **more})

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def resting(self) -> tuple[subprocess.Popen[str], str]:
        """A run of the program that rests for long, and its pid."""
        run = self.start("run", "prog.py", "--rest", "600")
        assert run.stdout.readline() == "rests\n", run.stderr.read()
        return run, str(json.loads(self.run("ps", "--json").stdout)[-1]["pid"])

    def ended(self) -> str:
        """The pid of a run that is over."""
        assert self.run("run", "prog.py").returncode == 0
        return str([p["pid"] for p in json.loads(self.run("ps", "-a", "--json").stdout) if p["name"] == "prog"][-1])

    def stop(self) -> float:
        """Ask it to stop; the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()
        return time.monotonic() - began


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimServer]:
    server = SimServer(tmp_path_factory.mktemp("sim"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def pid(sim: SimServer) -> str:
    return sim.ended()


def ops(text: str) -> list[str]:
    return [json.loads(line)["op"] for line in text.splitlines()]


def test_strace_shows_kept_calls_and_then_new_ones_until_the_process_ends(sim):
    run, pid = sim.resting()
    strace = sim.start("strace", "-T", pid)
    first = strace.stdout.readline()

    sim.run("kill", pid)
    rest, _ = strace.communicate(timeout=60)
    run.communicate(timeout=60)

    assert strace.returncode == 0
    assert f"  {pid}/0  tokenize(chars=12) = ok  <0." in first
    assert "sleep(seconds=600.0) = EINTR" in rest


def test_strace_once_ends_with_the_kept_calls(sim):
    run, pid = sim.resting()

    done = sim.run("strace", "--once", pid)

    assert done.returncode == 0 and "forward(fd=3 n=0 top_k=20) = ok  [step " in done.stdout and "<0." not in done.stdout
    sim.run("kill", "-KILL", pid)
    run.communicate(timeout=60)


def test_strace_with_children_and_a_choice_of_calls(sim, pid):
    assert ops(sim.run("strace", "--json", "-e", "forward,generate", pid).stdout) == ["forward", "generate", "generate"]
    assert ops(sim.run("strace", "--json", "-f", "-e", "forward,generate", pid).stdout).count("forward") == 2
    assert "sleep" not in ops(sim.run("strace", "--json", "-e", "!sleep,file", pid).stdout)


def test_strace_counts_calls_at_the_end(sim, pid):
    table = sim.run("strace", "-c", pid).stdout.splitlines()
    rows = json.loads(sim.run("strace", "-c", "--json", pid).stdout)

    assert table[0].split() == ["CALL", "CALLS", "ERRORS", "TOTAL", "s", "MEAN", "s", "MAX", "s"]
    assert {r["op"]: r["num_calls"] for r in rows}["generate"] == 2
    assert rows[-1]["op"] == "total" and rows[-1]["num_calls"] == sum(r["num_calls"] for r in rows[:-1])


def test_ctrl_c_ends_a_strace_with_its_table(sim):
    run, pid = sim.resting()
    strace = sim.start("strace", "-c", pid)
    watcher = sim.start("strace", "--json", "-e", "strace")  # shows that the other one is connected, once it has ended

    while not strace_is_open(sim):
        pass
    strace.send_signal(signal.SIGINT)
    out, err = strace.communicate(timeout=60)

    assert (strace.returncode, err) == (130, "")
    assert out.splitlines()[-1].startswith("total")
    assert json.loads(watcher.stdout.readline())["op"] == "strace"
    watcher.send_signal(signal.SIGINT)
    watcher.communicate(timeout=60)
    sim.run("kill", "-KILL", pid)
    run.communicate(timeout=60)


def strace_is_open(sim: SimServer) -> bool:
    return json.loads(sim.run("info", "--json").stdout)["detail"]["kernel"]["tracers"] >= 2


def test_a_log_that_was_written_is_read_without_a_server(sim, pid):
    path = sim.folder / "log.jsonl"
    assert sim.run("strace", "-f", "-o", str(path), pid).stdout == ""

    shown = sim.run("strace", "--from", str(path), "--socket", "/nowhere.sock", "-T")
    live = sim.run("strace", "-f", "-T", pid)

    assert shown.stdout == live.stdout != ""
    kinds = [json.loads(line).get("kind") for line in path.read_text().splitlines()]
    assert set(kinds[1:]) == {"process", "call", "step"}
    assert "wolpertinger" not in path.read_text()
    assert len(ops(sim.run("strace", "--from", str(path), pid, "--json").stdout)) < len(live.stdout.splitlines())


def test_trace_draws_a_process_its_children_and_the_engine(sim, pid):
    drawn = sim.run("trace", pid)
    log = sim.folder / "other.jsonl"
    sim.run("strace", "-f", "-o", str(log), pid)
    again = sim.run("trace", "--from", str(log), "-o", "again.json")

    assert (drawn.returncode, again.returncode) == (0, 0), drawn.stderr + again.stderr
    trace = json.loads((sim.folder / f"trace-{pid}.json").read_text())
    events = check(trace)
    assert {"engine", f"prog ({pid})"} < {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sum(e["ph"] == "s" for e in events) >= 4 and any(e["name"].startswith("step ") for e in events)
    assert check(json.loads((sim.folder / "again.json").read_text())) == events


def test_why_says_what_a_process_waits_for(sim):
    run, pid = sim.resting()

    text = sim.run("why", pid).stdout
    data = json.loads(sim.run("why", pid, "--json").stdout)

    assert text.startswith("thread 0 (main): sleep(seconds=600.0) for ") and ": waits for time to pass: ends in 59" in text
    assert data["process"]["pid"] == int(pid) and [t["cause"] for t in data["threads"]] == ["timer"]
    sim.run("kill", "-KILL", pid)
    run.communicate(timeout=60)


def test_why_of_an_ended_process_says_so(sim, pid):
    assert sim.run("why", pid).stdout == f"process {pid} (prog) has ended: exit 0, exit\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["why", "999999"], 1, "symphony: ESRCH: no such process: 999999"),
        (["why"], 2, "pid"),
        (["trace"], 1, "EINVAL: which process?"),
        (["trace", "999999"], 1, "ESRCH"),
        (["strace", "-e", "forwards"], 2, "no such call: 'forwards' (kinds: file, model, process, text)"),
        (["strace", "--from", "/nowhere"], 1, "ENOENT: no such file: /nowhere"),
        (["strace", "--from", "prog.py"], 1, "EINVAL: prog.py, line 1: no event log"),
        (["strace", "--once", "-o", "/nowhere/log"], 1, "EACCES: cannot write /nowhere/log"),
    ],
)
def test_wrong_words_are_one_line(sim, words, code, message):
    done = sim.run(*words)

    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_stops_does_not_wait_for_those_who_only_look(tmp_path):
    sim = SimServer(tmp_path)
    detached = (
        "import asyncio, sys\nfrom vllm_symphony.client import connect\n\nasync def main():\n    async with connect() as c:\n"
    )
    detached += "        print(await c.spawn(sys.argv[1], rest=600))\n\nasyncio.run(main())\n"
    pid = subprocess.run(
        [sys.executable, "-c", detached, "prog.py"], env=sim.environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    looks = [sim.start("logs", "-f", pid), sim.start("strace", pid), sim.start("strace")]
    assert looks[0].stdout.readline() == "rests\n"
    for look in looks[1:]:
        look.stdout.readline()

    took_s = sim.stop()

    assert took_s < 15, "it waited for its grace of 20 s"
    for look in looks:
        _, err = look.communicate(timeout=60)
        assert (look.returncode, err) == (1, "symphony: ENODEV: the server is stopping\n")
