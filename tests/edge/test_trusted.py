"""Programs in the server's own process: only where the operator says so, and otherwise like all others."""

import getpass
import json

import pytest

from tests.edge.test_command_line import eventually

WHERE = """
import os
from vllm_symphony import lip

async def main(n: int = 1) -> list:
    print("here", flush=True)
    lip.emit(n)
    async with lip.open(text="The lamp is lit at dusk.") as file:
        text = (await file.generate(4)).text
    return [os.getpid(), isinstance(text, str)]
"""
WAIT = "from vllm_symphony import lip\n\nasync def main():\n    print('up', flush=True)\n    await lip.sleep(600)\n"
DEAF = "async def main():\n    print('deaf', flush=True)\n    while True:\n        pass\n"


@pytest.fixture(scope="module")
def sim(fresh_server):
    return fresh_server("--device", "sim", "--no-state", "--trusted", getpass.getuser())


def test_a_trusted_program_runs_in_the_servers_process(sim, program):
    path = program(WHERE)

    inside = sim.run("run", "--runtime", "trusted", path)
    outside = sim.run("run", path)

    for done in (inside, outside):
        assert done.stdout.startswith("here\n1\n"), done.stderr
    assert json.loads(inside.stdout.splitlines()[-1]) == [sim.host_pid, True]
    assert json.loads(outside.stdout.splitlines()[-1])[0] != sim.host_pid


def test_many_at_once_have_their_own_output_and_values(sim, program):
    source = """
import asyncio
from vllm_symphony import lip

async def main(me: int) -> int:
    for i in range(5):
        print(me)
        await lip.sleep(0.001)
    return me * 10
"""
    runs = [sim.start("run", "--runtime", "trusted", program(source), "--me", str(i)) for i in range(5)]

    assert [run.communicate(timeout=60)[0] for run in runs] == [f"{i}\n" * 5 + f"{i * 10}\n" for i in range(5)]


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_trusted_program_ends_by_a_signal(sim, program, signal):
    run = sim.start("run", "--runtime", "trusted", program(WAIT))
    assert run.stdout.readline() == "up\n"
    (seen,) = json.loads(sim.run("ps", "--json").stdout)

    sim.run("kill", f"-{signal}", str(seen["pid"]))
    run.communicate(timeout=60)

    assert seen["runtime"] == "trusted"
    assert run.returncode == {"TERM": 130, "KILL": 137}[signal]
    assert json.loads(sim.run("ps", "--json").stdout) == []


def test_a_failure_has_its_traceback_and_the_server_goes_on(sim, program):
    done = sim.run("run", "--runtime", "trusted", program("async def main():\n    return 1 / 0\n"))

    assert done.returncode == 1
    assert "line 2" in done.stderr and "ZeroDivisionError" in done.stderr
    assert sim.run("info").returncode == 0


def test_without_the_operators_word_it_is_refused(server, program):
    done = server.run("run", "--runtime", "trusted", program(WHERE))

    assert done.returncode == 1
    assert "EPERM" in done.stderr and "symphony serve --trusted" in done.stderr


def test_a_confined_program_of_a_trusted_principal_stays_outside(sim, program):
    source = """
from vllm_symphony import lip
from vllm_symphony.abi.calls import Spawn
from vllm_symphony.lip.transport import call

async def main() -> str:
    try:
        await call("spawn", Spawn(source="async def main(): ...", runtime="trusted"))
    except lip.NotOwner as e:
        return e.reason
"""

    assert sim.run("run", program(source)).stdout == "EPERM\n"


def test_one_that_never_awaits_is_forgotten_and_confined_programs_run_on(fresh_server, program):
    server = fresh_server("--device", "sim", "--no-state", "--trusted", getpass.getuser())
    run = server.start("run", "--runtime", "trusted", program(DEAF))
    assert run.stdout.readline() == "deaf\n"
    (pid,) = [p["pid"] for p in json.loads(server.run("ps", "--json").stdout)]

    server.run("kill", "-KILL", str(pid))
    run.communicate(timeout=60)

    assert run.returncode == 137
    assert eventually(lambda: json.loads(server.run("ps", "--json").stdout) == [])
    assert server.run("run", program("async def main():\n    return 1\n")).stdout == "1\n"
    assert server.stop() == 0
