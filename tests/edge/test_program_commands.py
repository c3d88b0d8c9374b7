"""Programs from outside, on a server as `symphony serve --device sim` makes it: input, limits, signals, registry, channels."""

import json
import subprocess

import pytest

ECHO = """
import sys

async def main(prefix: str = "") -> int:
    data = sys.stdin.buffer.read()
    sys.stdout.write(prefix + data.decode("latin-1"))
    return len(data)
"""
SLOW = """
from vllm_symphony import lip

async def main():
    print("up", flush=True)
    for _ in range(6000):
        await lip.sleep(0.1)
"""
WRITE = """
from vllm_symphony import lip

async def main():
    async with lip.open(tokens=[1]) as file:
        while True:
            await file.append([2] * 9)
"""
ANSWER = """
from vllm_symphony import lip

async def main(name: str) -> int:
    async with await lip.channel(name, create=True) as channel:
        print("listens", flush=True)
        message = await channel.recv()
        await message.respond(message.data.upper())
        return message.principal
"""
SAYS = '''
# /// script
# [tool.symphony]
# limits = { tokens = 100 }
# ///
async def main(task: str, n: int = 2) -> str:
    """Sort tickets.

    Args:
        task: what to do
    """
    return f"{task} {n}"
'''


@pytest.fixture(scope="module")
def sim(fresh_server):
    server = fresh_server("--device", "sim")
    yield server
    assert server.stop() == 0


def process(sim, pid: int) -> dict:
    (found,) = json.loads(sim.run("ps", str(pid), "--json").stdout)
    return found


@pytest.fixture
def slow(sim, program):
    pid = int(sim.run("run", "--detach", program(SLOW)).stdout)
    yield pid
    sim.run("kill", "-KILL", str(pid))
    sim.run("wait", str(pid))


# ---- input


def test_standard_input_reaches_the_program_byte_by_byte(sim, program):
    data = bytes(range(256)) * 10_000

    run = sim.start("run", program(ECHO), "--json", stdin=subprocess.PIPE, text=False)
    out, err = run.communicate(data, timeout=60)

    events = [json.loads(line) for line in out.splitlines()]
    assert (run.returncode, err) == (0, b"")
    assert events[-1]["value"] == len(data)
    assert "".join(e["text"] for e in events if e["kind"] == "stdout").encode("latin-1") == data


def test_without_input_a_program_reads_an_end(sim, program):
    with_null = sim.run("run", program(ECHO))
    asked = sim.start("run", "--no-input", program(ECHO), stdin=subprocess.PIPE)

    assert with_null.stdout == "0\n"
    assert asked.communicate("not for it", timeout=60)[0] == "0\n"


def test_a_program_that_ends_does_not_wait_for_whoever_writes_to_it(sim, program):
    run = sim.start("run", program("async def main():\n    print('done')\n"), stdin=subprocess.PIPE)

    assert run.stdout.read() == "done\n"  # its writer is still there
    assert run.wait(60) == 0
    run.stdin.close()


# ---- signals and ends


def test_stop_holds_a_process_and_cont_lets_it_go_on(sim, slow):
    assert sim.run("kill", "-STOP", str(slow)).returncode == 0
    assert process(sim, slow)["state"] == "stopped"
    assert "it was sent STOP" in sim.run("why", str(slow)).stdout

    sim.run("kill", "-CONT", str(slow))

    assert process(sim, slow)["state"] == "running"


def test_kill_tells_of_each_that_it_cannot_and_goes_on(sim, slow):
    done = sim.run("kill", "-KILL", "999999", str(slow))

    assert (done.returncode, done.stderr) == (1, "symphony: ESRCH: no such process: 999999\n")
    assert sim.run("wait", str(slow)).returncode == 137


def test_wait_ends_with_the_code_of_the_last_process(sim, program):
    pids = [sim.run("run", "-d", program(f"async def main():\n    raise SystemExit({code})\n")).stdout.strip() for code in (3, 4)]

    done = sim.run("wait", "--json", *pids)

    assert done.returncode == 4
    assert [json.loads(line)["code"] for line in done.stdout.splitlines()] == [3, 4]


def test_wait_gives_up_after_its_time(sim, slow):
    done = sim.run("wait", "--timeout", "0.1s", str(slow))

    assert done.returncode == 124 and "ETIMEDOUT" in done.stderr


# ---- limits


def test_a_program_that_has_used_its_tokens_is_told_and_its_end_says_so(sim, program):
    done = sim.run("run", "--limit", "tokens=100", program(WRITE))

    assert done.returncode == 124
    assert "EDQUOT: tokens: 100 of 100 used" in done.stderr


def test_limits_of_a_process_are_shown_and_lowered(sim, slow):
    done = sim.run("limits", str(slow), "--set", "tokens=20k", "--set", "memory=128MiB", "--json")

    found = json.loads(done.stdout)
    assert (found["limits"]["tokens"], found["limits"]["memory_bytes"], found["used"]["tokens"]) == (20_000, 128 << 20, 0)
    assert "tokens" in sim.run("limits", str(slow)).stdout


def test_limits_of_nobody_in_particular_are_the_callers(sim):
    assert json.loads(sim.run("limits", "--json").stdout)["limits"]["wall_s"] is None


def test_ps_shows_who_runs_a_process_and_its_limits(sim, slow):
    table = sim.run("ps", "-l", "--tree", str(slow)).stdout

    assert "LIMITS" in table and "wall=" in table and "python" in table


def test_top_has_rates_beside_each_process(sim, slow):
    look = json.loads(sim.run("top", "--once", "--json").stdout)

    assert [p["pid"] for p in look["processes"]] == [slow]
    assert look["processes"][0]["rates"].keys() == {"device", "cpu", "tokens_in", "tokens_out"}
    assert sim.run("top", "-n", "2", "-d", "0.1s").stdout.count("PID") == 2


# ---- the registry


@pytest.fixture
def installed(sim, program):
    done = sim.run("install", program(SAYS), "--name", "triage@1.2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    yield f"{found['name']}@{found['version']}"
    assert sim.run("uninstall", "triage@1.2").returncode == 0


def test_an_installed_program_runs_by_its_name_with_the_options_that_it_declares(sim, installed):
    done = sim.run("run", "triage", "--task", "sort", "--n", "3")

    assert (done.stdout, done.stderr, done.returncode) == ("sort 3\n", "", 0)
    assert process_of(sim, "sort")["program"] == installed


def process_of(sim, value: str) -> dict:
    (found,) = [p for p in json.loads(sim.run("ps", "--all", "--json").stdout) if p["exit"] and value in (p["exit"]["value"] or "")]
    return found


def test_help_of_an_installed_program_shows_its_options(sim, installed):
    done = sim.run("run", installed, "--help")

    assert done.returncode == 0
    assert "Sort tickets." in done.stdout and "--task TASK" in done.stdout and "what to do" in done.stdout


def test_what_is_missing_for_an_installed_program_is_wrong_usage(sim, installed):
    done = sim.run("run", installed)

    assert done.returncode == 2 and "--task" in done.stderr


def test_programs_are_listed_with_what_they_declare(sim, installed):
    (found,) = json.loads(sim.run("programs", "--json", "*/triage@*").stdout)

    assert (found["description"], found["limits"]["tokens"]) == ("Sort tickets.", 100)
    assert installed in sim.run("programs").stdout
    assert "tokens=100" in sim.run("programs", "-l").stdout
    assert sim.run("programs", "--text", "triage").stdout == SAYS


def test_a_version_never_changes(sim, installed, program):
    again = sim.run("install", program(SAYS), "--name", "triage@1.2")
    other = sim.run("install", program(ECHO, "other.py"), "--name", "triage@1.2")

    assert (again.returncode, again.stdout.strip()) == (0, installed)
    assert (other.returncode, "EEXIST" in other.stderr) == (1, True)


def test_a_program_that_nobody_installed_is_told(sim):
    done = sim.run("run", "nobody/has-it@1")

    assert (done.returncode, done.stderr) == (1, "symphony: ENOENT: no such program: nobody/has-it\n")


# ---- talking


@pytest.fixture
def channel(sim):
    assert sim.run("channels", "--create", "chat").returncode == 0
    yield "chat"
    assert sim.run("channels", "--remove", "chat").returncode == 0


def test_messages_come_out_as_they_went_in(sim, channel):
    sim.run("send", channel, "hello", "there")
    raw = sim.start("send", channel, stdin=subprocess.PIPE, text=False)
    raw.communicate(b"\xff\x00\n")

    received = sim.start("recv", channel, "-n", "2", text=False)

    assert received.communicate(timeout=60)[0] == b"hello there\n\xff\x00\n\n"


def test_a_message_as_json_says_who_sent_it(sim, channel):
    sent = json.loads(sim.run("send", channel, "x", "--json").stdout)
    message = json.loads(sim.run("recv", channel, "--json").stdout)

    assert (sent["seq"], message["seq"], message["text"]) == (1, 1, "x")
    assert message["principal"]


def test_a_topic_reaches_all_who_listen(sim):
    sim.run("channels", "--create", "news", "--kind", "topic", "--overflow", "drop_oldest")
    readers = [sim.start("recv", "news", "--timeout", "20s") for _ in range(2)]
    (stat,) = wait_for(sim, lambda found: found[0]["receivers"] == 2)

    sent = json.loads(sim.run("send", "news", "flash", "--json").stdout)

    assert (stat["kind"], sent["num_receivers"]) == ("topic", 2)
    assert [reader.communicate(timeout=60)[0] for reader in readers] == ["flash\n", "flash\n"]
    wait_for(sim, lambda found: found[0]["receivers"] == 0)
    sim.run("channels", "--remove", "news")


def wait_for(sim, holds) -> list[dict]:
    for _ in range(100):
        found = json.loads(sim.run("channels", "--json").stdout)
        if holds(found):
            return found
    raise AssertionError(found)


def test_nothing_to_receive_and_no_channel_are_told(sim, channel):
    late, lost = sim.run("recv", channel, "--timeout", "0.1s"), sim.run("send", "nowhere", "x")

    assert (late.returncode, "ETIMEDOUT" in late.stderr) == (1, True)
    assert (lost.returncode, "ENOENT: no such channel" in lost.stderr) == (1, True)


def test_a_full_channel_is_told_to_who_does_not_wait(sim):
    sim.run("channels", "--create", "small", "--capacity", "1")
    sim.run("send", "small", "one")

    done = sim.run("send", "small", "two", "--no-wait")

    assert (done.returncode, "EAGAIN" in done.stderr) == (1, True)
    sim.run("channels", "--remove", "small")


def test_tools_are_listed_though_there_are_none(sim):
    assert json.loads(sim.run("tools", "--json").stdout) == []
    assert sim.run("tools", "web.get").stderr == "symphony: no such tool: web.get (there are: none)\n"
