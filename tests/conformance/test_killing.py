"""A program killed in each state of each call leaves nothing: no call, job, file, page, row, process."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conformance.host import eventually
from vllm_symphony.abi.calls import Kill, Ps

HOSTS = ("sim-server", "own", "http")

PROGRAM = """
from vllm_symphony import lip

BUSY = [40 + i % 40 for i in range(1200)]

async def main(state: str):
    # again and again: however slowly it is looked for, it is met in its state, and it is never over by itself
    while True:
        async with lip.open(tokens=[50, 51, 52]) as f, f.fork() as fork, lip.group() as g:
            await STATES[state](f, fork, g)

async def stream(f, *_):
    async for piece in f.generate(1500, ignore_eos=True, temperature=1.0):
        pass

async def threads(f, fork, g):
    for file in (f, fork):
        g.start(file.generate, 1500, ignore_eos=True)
    g.start(lip.sleep, 600)

async def wait(f, fork, g):
    child = await lip.spawn(generate, "nested")
    await child.wait()

async def generate(word: str):
    async with lip.open(tokens=[50]) as f:
        await f.generate(1500, ignore_eos=True)

async def spawn(*_):
    while True:
        child = await lip.spawn(rest)
        await lip.sleep(0.001)
        await child.wait()

def rest(): ...

async def text(*_):
    while True:
        await lip.tokenize("the boat " * 2000)

STATES = {
    "forward": lambda f, fork, g: f.forward(BUSY, outputs="all", keep="all"),
    "forward_many": lambda f, fork, g: lip.forward_many([(f, BUSY), (fork, BUSY)]),
    "generate": lambda f, fork, g: f.generate(1500, ignore_eos=True, until=lip.top1 > 1.1, seed=3, temperature=1.0, stop="never"),
    "grammar": lambda f, fork, g: f.generate(1500, grammar=lip.regex("[a-z ]{1200}")),
    "stream": stream,
    "sample": lambda f, fork, g: f.sample(temperature=1.0),
    "logits": lambda f, fork, g: f.logits(1),
    "sleep": lambda f, fork, g: lip.sleep(600),
    "threads": threads,
    "wait": wait,
    "spawn": spawn,
    "text": text,
}
"""
OPS = {"grammar": "generate", "stream": "generate", "threads": "generate", "spawn": "", "text": ""}
MODEL = ["forward", "forward_many", "generate", "grammar", "stream", "sample", "logits", "threads"]
SHORT = ["forward", "forward_many", "sample", "logits"]
OTHERS = ["sleep", "wait", "spawn", "text"]
BLOCKER = "from vllm_symphony import lip\nasync def main():\n    async with lip.open(tokens=[1]) as f: await f.forward()\n"

WITNESS = """
from vllm_symphony import lip

async def main():
    async with lip.open(tokens=[50]) as f:
        return (await f.generate(400, ignore_eos=True)).tokens
"""


def by_system(host, pid):
    os.kill(host.os_pid(pid), signal.SIGKILL)
    return 137


def by_kernel(host, pid):
    host.client.ask("kill", Kill(pid, "KILL"))
    return 137


def by_term(host, pid):
    host.client.ask("kill", Kill(pid, "TERM"))
    return 130


def by_vanishing(host, pid):
    host.client.close()
    host.begin()
    return None


HOWS = [by_system, by_kernel, by_term, by_vanishing]


def until_calls(host, pid, more_than):
    eventually(lambda: host.client.ask("ps", Ps(pid)).processes[0].usage.num_calls > more_than, f"{pid} does not come to its calls")


def meet(host, state):
    """A program in that state; gives its pid."""
    pid = host.spawn(PROGRAM, state=state)
    op = OPS.get(state, state)
    if op:
        host.until_waiting(pid, op)
    else:
        until_calls(host, pid, 8)
    return pid


def ends(host, pid, code):
    if code is None:  # a child of the client that vanished: told to end, and nobody's
        eventually(lambda: all(p.exit is not None for p in host.client.ask("ps", Ps()).processes), "it outlived its client")
        return
    assert host.wait(pid).status.code == code


@pytest.mark.parametrize("kill", HOWS)
@pytest.mark.parametrize("state", MODEL + OTHERS)
def test_killed_while_it_runs(host, state, kill):
    frozen = host.name == "sim-server" and state in SHORT
    thaw = host.freeze() if frozen else int  # in the step that does not end
    try:
        pid = meet(host, state)
        code = kill(host, pid)
    finally:
        thaw()

    ends(host, pid, code)


@pytest.mark.parametrize("kill", HOWS)
@pytest.mark.parametrize("state", [s for s in MODEL if s != "threads"])
def test_killed_while_the_device_has_not_looked_at_its_call(host, state, kill):
    blocker = None
    thaw = host.freeze()
    try:
        if host.name == "sim-server":
            blocker = host.spawn(BLOCKER)
            host.until_waiting(blocker, "forward")
        pid = meet(host, state)
        code = kill(host, pid)
    finally:
        thaw()

    ends(host, pid, code)


@pytest.mark.parametrize("kill", HOWS)
def test_killed_at_any_moment(host, kill):
    """All at once, each in another state; the others are not disturbed."""
    pids = [host.spawn(PROGRAM, state=state) for state in (*MODEL, *OTHERS)]
    witness = host.spawn(WITNESS)
    until_calls(host, witness, 0)

    if kill is by_vanishing:
        kill(host, pids[0])
        ends(host, pids[0], None)
        return
    for pid in pids:
        try:
            kill(host, pid)
        except ProcessLookupError:  # not yet started, or over
            host.client.ask("kill", Kill(pid, "KILL"))
    for pid in pids:
        host.wait(pid)
    assert host.wait(witness).value == host.run(WITNESS).value
