"""Programs under the reactor and the real fork server, with a scripted kernel: how they start, print, fail and die."""

import json
import os
import resource
import time

import psutil
import pytest

from tests.unit.engine.reactor_rig import WAIT_S, EchoDevice, Footprint, ScriptedKernel
from vllm_symphony.engine.reactor import Reactor


def code(kernel, pid):
    return kernel.wait_exit(pid)[2]


def test_a_program_prints_emits_computes_and_returns(rig, run):
    kernel, _ = rig

    pid = run(
        "import sys\n"
        "async def main(n: int):\n"
        "    from vllm_symphony.lip.transport import call, post\n"
        "    from vllm_symphony.abi.calls import Emit, Forward\n"
        "    print('hello'); print('oops', file=sys.stderr)\n"
        "    post('emit', Emit('1'))\n"
        "    r = await call('forward', Forward(fd=3))\n"
        "    return [n, r.length]\n",
        args='{"n": 5}',
    )

    assert code(kernel, pid) == 0
    assert kernel.text(pid, "stdout") == "hello\n" and kernel.text(pid, "stderr") == "oops\n"
    assert kernel.exit_call(pid).value == "[5, 1]"
    mine = [x for x in kernel.diary if x[1] == pid]
    assert mine[0][0] == "started" and mine[-1][0] == "exited"
    printed = next(i for i, x in enumerate(mine) if x[0] == "output")
    assert printed < next(i for i, x in enumerate(mine) if x[0] == "call" and x[2] == "emit")  # in the program's order
    assert mine[-1][3] > 0  # CPU seconds


def test_a_traceback_shows_the_programs_own_lines_and_none_of_ours(rig, run):
    kernel, _ = rig

    pid = run("def inner():\n    return 1 // 0  # the culprit\nasync def main():\n    inner()\n", name="best.py")

    assert code(kernel, pid) == 1
    assert kernel.text(pid, "stderr") == (
        "Traceback (most recent call last):\n"
        '  File "best.py", line 4, in main\n    inner()\n'
        '  File "best.py", line 2, in inner\n    return 1 // 0  # the culprit\n           ~~^^~~\n'
        "ZeroDivisionError: integer division or modulo by zero\n"
    )
    assert kernel.exit_call(pid).error == "ZeroDivisionError: integer division or modulo by zero"
    assert kernel.exit_call(pid).reason == "exception"


@pytest.mark.parametrize(
    ("source", "args", "status", "says"),
    [
        ("async def main(:\n    pass", "{}", 2, "invalid syntax"),
        ("x = 1", "{}", 2, "main"),
        ("main = 3", "{}", 2, "main"),
        ("def main(a): return a", "{}", 2, "a"),
        ("def main(): return 1", '{"b": 2}', 2, "b"),
        ("def main(): pass", "[1]", 2, "object"),
        ("def main(): pass", "{", 2, "JSON"),
        ("def main():\0pass", "{}", 2, "null"),
        ("(" * 1_000_000, "{}", 2, "prog.py"),
        ("import nowhere_to_be_found", "{}", 1, "ModuleNotFoundError"),
        ("def main(): return object()", "{}", 1, "not JSON"),
        ("def main(): return float('nan')", "{}", 1, "not JSON"),
        ("def main(): raise SystemExit('bye')", "{}", 1, "bye"),
        ("def main(): raise SystemExit(7)", "{}", 7, ""),
        ("def main(): exit_early()\ndef exit_early():\n import sys; sys.exit()", "{}", 0, ""),
        ("def main():\n def f(): f()\n f()", "{}", 1, "RecursionError"),
        ("import os\nos._exit(9)\ndef main(): pass", "{}", 9, ""),
        ("import os, signal\ndef main(): os.kill(os.getpid(), signal.SIGKILL)", "{}", 137, ""),
        ("import ctypes\ndef main(): ctypes.string_at(0)", "{}", 139, ""),
        ("import os\ndef main(): os.abort()", "{}", 134, ""),
    ],
)
def test_every_way_to_fail_has_its_code_and_says_why(rig, run, source, args, status, says):
    kernel, _ = rig

    pid = run(source, args=args)

    assert code(kernel, pid) == status
    assert says in kernel.text(pid, "stderr")
    if status == 2:
        assert kernel.exit_call(pid).reason == "program"


def test_a_program_sees_nothing_of_the_server(unconfined, run_unconfined):
    kernel, _ = unconfined

    pid = run_unconfined(
        "import os, json, signal, sys\n"
        "def main():\n"
        "    fds = sorted(int(f) for f in os.listdir('/proc/self/fd'))\n"
        "    return dict(env=sorted(os.environ), fds=fds, nice=os.nice(0), leader=os.getpgid(0) == os.getpid(),\n"
        "                stdin=os.readlink('/proc/self/fd/0'), core=__import__('resource').getrlimit(4),\n"
        "                heavy=[m for m in ('torch', 'vllm', 'grpc', 'ray') if m in sys.modules],\n"
        "                argv=sys.argv, frames=len(__import__('inspect').stack()) < 40)\n"
    )

    assert code(kernel, pid) == 0
    seen = json.loads(kernel.exit_call(pid).value)
    assert seen["env"] == ["LANG", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONHASHSEED"]
    assert len(seen["fds"]) <= 4 + 4 and seen["fds"][:4] == [0, 1, 2, 3]  # the loop's own, and the one that lists
    assert seen["stdin"] == "/dev/null" and seen["nice"] >= 10 and seen["leader"] and seen["core"] == [0, 0]
    assert seen["heavy"] == [] and seen["argv"] == ["program"]


def test_random_repeats_with_the_seed(rig, run):
    kernel, _ = rig
    source = "import random\ndef main(): return [random.random(), hash('x')]"

    a, b, c = (run(source, seed=s) for s in (1, 1, 2))

    values = [kernel.exit_call(pid).value for pid in (a, b, c) if code(kernel, pid) == 0]
    assert values[0] == values[1] != values[2]


def test_term_cancels_main_once_and_it_may_clean_up(rig, run):
    kernel, reactor = rig

    pid = run(
        "import asyncio\n"
        "async def main():\n"
        "    print('ready')\n"
        "    try:\n        await asyncio.sleep(1000)\n"
        "    finally:\n        print('cleaning')\n"
    )
    kernel.wait_for(lambda d: "ready" in kernel.text(pid, "stdout"))
    for _ in range(2):
        reactor.run_in_reactor(lambda k: k.signal(pid, "TERM"))

    assert code(kernel, pid) == 130
    assert kernel.text(pid, "stdout") == "ready\ncleaning\n" and kernel.text(pid, "stderr") == ""
    assert kernel.exit_call(pid).reason == "cancelled"


def test_a_loop_that_never_ends_is_killed_with_its_group(unconfined, run_unconfined):
    kernel, reactor = unconfined

    pid = run_unconfined(
        "import os\n"
        "def main():\n"
        "    child = os.fork()\n"
        "    print(os.getpid(), flush=True)\n"
        "    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n"
    )
    kernel.wait_for(lambda d: kernel.text(pid, "stdout").count("\n") == 2)
    os_pids = [int(x) for x in kernel.text(pid, "stdout").split()]
    reactor.run_in_reactor(lambda k: k.signal(pid, "KILL"))

    assert code(kernel, pid) == 137
    for os_pid in os_pids:
        deadline = time.monotonic() + WAIT_S
        while psutil.pid_exists(os_pid) and psutil.Process(os_pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            os.sched_yield()


def test_kill_right_after_launch_ends_it(rig, run):
    kernel, reactor = rig

    def both(k):
        pid = k.launch("def main():\n    while True: pass")
        k.signal(pid, "KILL")
        return pid

    assert code(kernel, reactor.run_in_reactor(both)) == 137


def test_fifty_megabytes_of_output_arrive_whole(rig, run):
    kernel, _ = rig

    pid = run("def main():\n    line = 'x' * 1023\n    for _ in range(50 * 1024): print(line)")

    assert code(kernel, pid) == 0
    chunks = [x[3] for x in kernel.diary if x[0] == "output" and x[1] == pid]
    assert sum(map(len, chunks)) == 50 << 20 and max(map(len, chunks)) < 1 << 18
    assert all(c.endswith("\n") for c in chunks)
    kernel.diary.clear()


def test_odd_bytes_and_unfinished_lines_are_shown(rig, run):
    kernel, _ = rig

    pid = run(
        "import os, time, sys\n"
        "def main():\n"
        "    os.write(1, b'\\xff\\xe2\\x82'); os.write(1, b'\\xac > ')\n"
        "    sys.stdout.write('end')\n"
        "    print('\\ud800', file=sys.stderr)\n"
    )

    assert code(kernel, pid) == 0
    assert kernel.text(pid, "stdout") == "\ufffd\u20ac > end"
    assert kernel.text(pid, "stderr") == "\\ud800\n"


def test_a_prompt_without_newline_is_shown_while_the_program_waits(rig, run):
    kernel, reactor = rig

    pid = run("import asyncio\nasync def main():\n    print('name? ', end='', flush=True)\n    await asyncio.sleep(1000)")

    kernel.wait_for(lambda d: kernel.text(pid, "stdout") == "name? ")
    reactor.run_in_reactor(lambda k: k.signal(pid, "KILL"))
    assert code(kernel, pid) == 137


def test_a_program_that_breaks_the_protocol_is_ended(rig, run):
    kernel, reactor = rig

    pid = run("import os, time\ndef main():\n    os.write(3, b'\\xff' * 64)\n    time.sleep(1000)")

    assert code(kernel, pid) == 137
    with pytest.raises(AssertionError):
        reactor.run_in_reactor(lambda k: _raise(AssertionError("only the asker hears of it")))


def test_a_source_larger_than_a_frame_is_refused_and_one_just_below_runs(rig, run):
    kernel, _ = rig

    assert "the limit is 16777216" in kernel.wait_exit(run("#" * (16 << 20)))[4]
    assert code(kernel, run("def main(): pass\n" + "#" * (15 << 20))) == 0


def test_out_of_files_launches_fail_politely_and_the_machine_goes_on(rig, run):
    kernel, reactor = rig
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 12, hard))
    try:
        pids = reactor.run_in_reactor(lambda k: [k.launch("def main(): return 1") for _ in range(30)])
        ends = [kernel.wait_exit(pid) for pid in pids]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert {(e[2], e[4]) for e in ends} == {(0, None), (137, "cannot start a process: [Errno 24] Too many open files")}
    assert code(kernel, run("def main(): pass")) == 0


def _raise(error):
    raise error


def test_fifty_launches_at_once_all_run(rig, run):
    kernel, reactor = rig

    pids = reactor.run_in_reactor(lambda k: [k.launch(f"def main(): return {i}") for i in range(50)])

    assert [code(kernel, p) for p in pids] == [0] * 50
    assert [kernel.exit_call(p).value for p in pids] == [str(i) for i in range(50)]


def test_a_dead_fork_server_ends_its_programs_and_the_next_launch_starts_another():
    footprint = Footprint()
    kernel = ScriptedKernel()
    reactor = Reactor(kernel, EchoDevice(), socket_path=None, principal="ann")
    reactor.start()
    launch = "import os, time\ndef main():\n    print(os.getppid(), flush=True)\n    time.sleep(1000)"
    pid = reactor.run_in_reactor(lambda k: k.launch(launch))
    kernel.wait_for(lambda d: kernel.text(pid, "stdout"))

    os.kill(int(kernel.text(pid, "stdout")), 9)

    assert code(kernel, pid) == 137
    assert code(kernel, reactor.run_in_reactor(lambda k: k.launch("def main(): pass"))) == 0
    reactor.stop()
    footprint.check()


def test_a_flood_is_slowed_to_its_rate_and_stop_ends_it():
    footprint = Footprint()
    kernel = ScriptedKernel()
    reactor = Reactor(kernel, EchoDevice(), socket_path=None, principal="ann", output_bytes_per_s=1 << 18)
    reactor.start()
    pid = reactor.run_in_reactor(lambda k: k.launch("def main():\n    while True: print('x' * 1000)"))
    kernel.wait_for(lambda d: len(kernel.text(pid, "stdout")) >= 1 << 16)
    start = time.monotonic()
    kernel.wait_for(lambda d: len(kernel.text(pid, "stdout")) >= 3 << 16)
    took_s = time.monotonic() - start

    reactor.stop()

    assert took_s > 0.3  # 128 KiB at 256 KiB/s
    assert code(kernel, pid) == 137
    footprint.check()
