"""Reactors with real fork servers for the tests of this folder: `rig` confines programs, `unconfined` does not."""

import time

import pytest

from tests.unit.engine.reactor_rig import WAIT_S, EchoDevice, Footprint, ScriptedKernel
from vllm_symphony.engine.reactor import Reactor


@pytest.fixture(scope="module")
def rig():
    footprint = Footprint()
    kernel = ScriptedKernel()
    reactor = Reactor(kernel, EchoDevice(), socket_path=None, principal="ann", output_bytes_per_s=1 << 30)
    reactor.start()
    yield kernel, reactor
    reactor.stop()
    footprint.check()


@pytest.fixture(scope="module")
def unconfined():
    footprint = Footprint()
    kernel = ScriptedKernel()
    reactor = Reactor(kernel, EchoDevice(), socket_path=None, principal="ann", confined=False)
    reactor.start()
    yield kernel, reactor
    reactor.stop()
    footprint.check()


@pytest.fixture
def run(rig):
    """Start a program; afterwards nothing of it may be left."""
    yield from running(rig)


@pytest.fixture
def run_unconfined(unconfined):
    yield from running(unconfined)


def running(rig):
    kernel, reactor = rig
    yield lambda source, **more: reactor.run_in_reactor(lambda k: k.launch(source, **more))
    deadline = time.monotonic() + WAIT_S
    while kernel.alive and time.monotonic() < deadline:
        kernel.wait_for(lambda d: not kernel.alive)
    reactor.check_idle()
