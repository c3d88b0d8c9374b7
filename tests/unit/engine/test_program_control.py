"""What the host does to a running program: limits, standard input, STOP and CONT, what its end is called, and what it is told."""

import json
import time

import psutil
import pytest

from vllm_symphony.abi.types import ResourceLimits

MIB = 1 << 20


def end(kernel, pid):
    """(code, error, reason)"""
    _, _, code, _, error, reason = kernel.wait_exit(pid)
    return code, error, reason


def value(kernel, pid):
    assert end(kernel, pid)[0] == 0, kernel.text(pid, "stderr")
    return json.loads(kernel.exit_call(pid).value)


def test_a_denied_system_call_ends_the_program_and_says_so(rig, run):
    kernel, _ = rig

    pid = run("import ctypes\ndef main(): ctypes.CDLL(None).ptrace(0, 0, 0, 0)")

    assert end(kernel, pid) == (159, "it made a system call that programs may not make", "denied")


def test_more_memory_than_allowed_is_an_error_and_then_an_end(rig, run):
    kernel, _ = rig
    source = "def main(mib):\n    kept = bytearray(mib << 20)\n    for i in range(0, len(kept), 4096): kept[i] = 1\n    return mib"

    small, large = (run(source, args=f'{{"mib": {mib}}}', limits=ResourceLimits(memory_bytes=64 * MIB)) for mib in (20, 4000))

    assert value(kernel, small) == 20
    assert end(kernel, large)[0] == 1 and "MemoryError" in kernel.text(large, "stderr")


def test_the_systems_killer_for_memory_is_a_limit(rig, run):
    kernel, _ = rig

    pid = run(
        "def main():\n    kept = []\n    while True: kept.append(bytearray(b'x') * (1 << 16))",
        limits=ResourceLimits(memory_bytes=32 * MIB, tasks=64),  # room for stacks: the address space is not what is short
    )

    assert end(kernel, pid) == (137, "memory_bytes: more than 33,554,432", "limit")


def test_cpu_time_that_is_used_up_is_a_limit(rig, run):
    kernel, _ = rig

    pid = run(
        "import resource\n"
        "def main():\n"
        "    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))  # as the system's would, some seconds later\n"
        "    while True: pass",
        limits=ResourceLimits(cpu_s=0.5),
    )
    kernel.wait_for(lambda d: any(x[0] == "used" and x[1] == pid and x[2] > 0.2 and x[3] > MIB for x in d))

    assert end(kernel, pid) == (124, "cpu_s: 0.5 of 0.5 used", "limit")


@pytest.mark.parametrize("num_at_once", [1, 3])
def test_limits_that_differ_from_those_of_the_ready_ones_hold(rig, run, num_at_once):
    kernel, _ = rig
    source = "import resource\ndef main(): return resource.getrlimit(resource.RLIMIT_NOFILE)"

    pids = [run(source, limits=ResourceLimits(fds=33)) for _ in range(num_at_once)]

    assert [value(kernel, pid) for pid in pids] == [[33, 33]] * num_at_once
    assert value(kernel, run(source)) == [64, 64]


def test_input_arrives_in_order_and_ends(rig, run):
    kernel, reactor = rig

    pid = run("import sys\ndef main():\n    return [line for line in sys.stdin]", stdin=True)
    for text in (b"one\ntw", b"o\n", b"three"):
        reactor.run_in_reactor(lambda k: k.feed(pid, text))  # noqa: B023  called at once
    reactor.run_in_reactor(lambda k: k.feed(pid, b"", eof=True))

    assert value(kernel, pid) == ["one\n", "two\n", "three"]


def test_input_that_is_not_read_waits_and_is_counted(rig, run):
    kernel, reactor = rig
    data = bytes(range(256)) * 4096

    pid = run("import sys\ndef main():\n    sys.stdin.readline()\n    return len(sys.stdin.buffer.read())", stdin=True)
    reactor.run_in_reactor(lambda k: k.feed(pid, data))
    waiting = reactor.run_in_reactor(lambda k: k.input_bytes(pid))
    reactor.run_in_reactor(lambda k: k.feed(pid, b"", eof=True))

    assert 0 < waiting <= len(data)
    assert end(kernel, pid)[0] in (0, 1)  # the bytes are no text: that is the program's own affair
    assert reactor.run_in_reactor(lambda k: k.input_bytes(pid)) is None


def test_without_input_there_is_an_empty_one(rig, run):
    kernel, reactor = rig

    pid = run("import sys\ndef main(): return sys.stdin.read()")

    assert reactor.run_in_reactor(lambda k: k.input_bytes(pid)) is None
    assert value(kernel, pid) == ""


def test_input_for_one_that_has_closed_it_is_dropped(rig, run):
    kernel, reactor = rig

    pid = run(
        "import asyncio, os\nasync def main():\n    os.close(0)\n    print('shut')\n    await asyncio.sleep(1000)", stdin=True
    )
    kernel.wait_for(lambda d: kernel.text(pid, "stdout"))
    deadline = time.monotonic() + 20
    while reactor.run_in_reactor(lambda k: k.input_bytes(pid)) is not None:  # the fork server closes its end when it comes to it
        assert time.monotonic() < deadline
        reactor.run_in_reactor(lambda k: k.feed(pid, b"x"))

    reactor.run_in_reactor(lambda k: k.signal(pid, "KILL"))
    assert end(kernel, pid)[0] == 137


def test_stop_holds_its_code_and_cont_lets_it_go_on(rig, run):
    kernel, reactor = rig
    pid = run("import asyncio\nasync def main():\n    while True:\n        print('tick')\n        await asyncio.sleep(0.001)")
    kernel.wait_for(lambda d: kernel.text(pid, "stdout").count("tick") > 3)

    reactor.run_in_reactor(lambda k: k.signal(pid, "STOP"))
    os_pid = os_pid_of(kernel, pid)
    await_state(os_pid, "T")
    reactor.run_in_reactor(lambda k: k.signal(pid, "CONT"))
    seen = kernel.text(pid, "stdout").count("tick")
    kernel.wait_for(lambda d: kernel.text(pid, "stdout").count("tick") > seen + 3)

    reactor.run_in_reactor(lambda k: k.signal(pid, "STOP"))
    reactor.run_in_reactor(lambda k: k.signal(pid, "KILL"))
    assert end(kernel, pid) == (137, None, "")


def os_pid_of(kernel, pid):
    return next(x[2] for x in kernel.diary if x[:2] == ("started", pid))


def await_state(os_pid, state):
    deadline = time.monotonic() + 20
    while True:
        with open(f"/proc/{os_pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == state:
                return
        assert time.monotonic() < deadline


def test_numpy_repeats_with_the_seed_too(rig, run):
    kernel, _ = rig
    source = "import numpy as np\ndef main(): return np.random.randint(1 << 30, size=3).tolist()"

    a, b, c = (value(kernel, run(source, seed=seed)) for seed in (1, 1, 2))

    assert a == b != c


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import subprocess; subprocess.run(['ls'])", "lip.spawn starts a child program"),
        ("import os; os.fork()", "lip.spawn starts a child program"),
        ("import multiprocessing as m; m.Process(target=print).start()", "lip.spawn starts a child program"),
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "lip.call_tool asks a tool"),
        ("import urllib.request as u; u.urlopen('http://example.com')", "lip.call_tool asks a tool"),
        ("open('/tmp/x', 'w')", "keep data in KV files"),
        ("import os; os.mkdir('/tmp/x')", "keep data in KV files"),
        ("import socket; socket.socket(socket.AF_UNIX)", "programs are confined"),
    ],
)
def test_who_asks_for_what_programs_have_not_is_told_what_they_have(rig, run, code, says):
    kernel, _ = rig

    pid = run(f"def main():\n    {code}\n")

    assert end(kernel, pid)[0] == 1
    assert says in kernel.text(pid, "stderr")


def test_threads_and_the_parts_of_the_library_that_need_no_system_work(rig, run):
    kernel, _ = rig

    pid = run(
        "import asyncio, concurrent.futures, csv, io, queue, sqlite3, tempfile, threading, urllib.parse, zlib\n"
        "import numpy as np\n"
        "async def main():\n"
        "    with concurrent.futures.ThreadPoolExecutor(4) as pool:\n"
        "        squares = list(pool.map(lambda x: x * x, range(4)))\n"
        "    there = await asyncio.to_thread(lambda: float(np.linalg.norm(np.ones(4))))\n"
        "    db = sqlite3.connect(':memory:')\n"
        "    return [squares, there, db.execute('select 1 + 1').fetchone()[0]]\n"
    )

    assert value(kernel, pid) == [[0, 1, 4, 9], 2.0, 2]


def test_ready_ones_that_are_killed_are_replaced(rig, run):
    kernel, reactor = rig
    waiting = run("import sys\ndef main():\n    print('here')\n    return sys.stdin.read()", stdin=True)
    kernel.wait_for(lambda d: kernel.text(waiting, "stdout"))
    ours = psutil.Process(os_pid_of(kernel, waiting)).parent()  # others' fork servers may be below this process too
    assert ours is not None
    ready = [p for p in ours.children() if p.name() == "symphony-ready"]
    for process in ready:
        process.kill()

    pids = [run("def main(): return 2") for _ in range(len(ready) + 1)]

    assert [end(kernel, pid)[0] for pid in pids].count(0) >= 1  # one may have been given to a child that was dying
    assert value(kernel, run("def main(): return 3")) == 3
    reactor.run_in_reactor(lambda k: k.feed(waiting, b"", eof=True))
    assert value(kernel, waiting) == ""
