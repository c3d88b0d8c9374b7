"""Four machines that run the same programs (tests/conformance/host.py).

sim          kernel + SimDevice + programs as tasks, in one loop with a leaping clock (vllm_symphony.testing)
sim-server   reactor, fork server, programs as processes, SimDevice on its thread
own          the same over vLLM's engine with the tiny model
http         `symphony serve --http`: reactor and device in vLLM's own engine process, met by the kernel's socket
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests.dropin.server import Served
from tests.engine.driver import Driver
from tests.tiny import Guest, SharedHost
from tests.unit.engine.reactor_rig import WAIT_S, Client
from vllm_symphony.abi.calls import Attach, Ps, Spawn, Wait
from vllm_symphony.abi.types import ExitStatus
from vllm_symphony.abi.user import own_user
from vllm_symphony.engine.image import image
from vllm_symphony.engine.reactor import Reactor
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.testing import Machine


@dataclass
class Ended:
    """How a program ended, and what it showed."""

    status: ExitStatus
    stdout: str = ""
    stderr: str = ""
    emitted: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.status}\n{self.stdout}\n{self.stderr}"

    @property
    def value(self) -> Any:
        """What `main` returned; the test fails with the program's own traceback otherwise."""
        assert self.status.code == 0, str(self)
        return None if self.status.value is None else json.loads(self.status.value)


class SimHost:
    name = "sim"
    is_real = False  # a model computes

    def __init__(self, **sim: Any) -> None:
        self.machine = Machine(seed=1, **sim)

    def run(self, source: str, entry: str = "main", **args: Any) -> Ended:
        m = self.machine
        pid = m.client.call("spawn", Spawn(source, entry, json.dumps(args), "program.py")).result().pid
        m.run()
        run = m.runs[pid]
        assert run.status is not None
        return Ended(run.status, run.stdout, run.stderr, run.emitted)

    def steps_and_calls(self) -> tuple[Any, Any]:
        return self.machine.kernel.steps, self.machine.kernel.log.since()

    def assert_nothing_left(self) -> None:
        m = self.machine
        m.settle()
        m.check()
        m.close()
        assert m.kernel.idle(), m.kernel.counters()
        core = m.core
        assert not core.table.files and not core.jobs and not core._rows and core.counters()["pages_held"] == 0


class ServerHost:
    """A reactor over a device, and one client of it. `begin` and `end` surround a test."""

    principal = "ann"

    def __init__(self, name: str, device: Any, path: str) -> None:
        self.name = name
        self.is_real = not isinstance(device, SimDevice)
        self.device = device
        self.path = path
        self.kernel = Kernel(device.model, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns())
        self.kernel.image = image()
        self.reactor = Reactor(self.kernel, device, socket_path=path, principal=self.principal)
        self.reactor.start()
        self.client: Client

    def begin(self) -> None:
        self.client = Client(self.path)

    def spawn(self, source: str, entry: str = "main", **args: Any) -> int:
        pid: int = self.client.ask("spawn", Spawn(source, entry, json.dumps(args), "program.py")).pid
        return pid

    def wait(self, pid: int) -> Ended:
        parts: list[Any] = []
        self.client.ask("attach", Attach(pid), parts)
        events = [e for part in parts for e in part.events]
        text = {kind: "".join(e.text for e in events if e.kind == kind) for kind in ("stdout", "stderr")}
        emitted = [json.loads(e.text) for e in events if e.kind == "emit"]
        return Ended(self.client.ask("wait", Wait(pid)).exit, text["stdout"], text["stderr"], emitted)

    def run(self, source: str, entry: str = "main", **args: Any) -> Ended:
        return self.wait(self.spawn(source, entry, **args))

    def until_waiting(self, pid: int, op: str) -> None:
        """The program is inside the call."""
        eventually(lambda: op in self.client.ask("ps", Ps(pid)).processes[0].waiting, f"{pid} never waited in {op}")

    def os_pid(self, pid: int) -> int:
        return int(self.reactor.run_in_reactor(lambda k: k.processes[pid].os_pid))

    def steps_and_calls(self) -> tuple[Any, Any]:
        """What the kernel has told of its steps and of the calls that ended."""
        return self.kernel.steps, self.kernel.log.since()

    def settle(self) -> None:
        """All has ended; then the kernel's invariants hold and nothing is left."""
        eventually(lambda: self.reactor.run_in_reactor(lambda k: k.idle()), lambda: str(self.kernel.counters()))
        self.reactor.run_in_reactor(lambda k: k.check())
        eventually(lambda: not self.reactor.run_in_reactor(lambda _: self.reactor._peers.num_connected()), "a connection is left")
        self.reactor.check_idle()
        assert self.kernel.counters()["files"] == 0, self.kernel.counters()

    def end(self) -> None:
        self.client.close()
        self.settle()
        if isinstance(self.device, Guest):
            own: Any = self.device
            driver = Driver.__new__(Driver)
            driver.host = own
            assert own.shared.died is None, own.shared.died
            driver.assert_nothing_left()
        else:
            eventually(self._no_file, lambda: str(self.device.counters()))
            with self.device.locked() as core:
                core.check()
                assert not core.jobs and not core._rows and core.counters()["pages_held"] == 0, core.counters()

    def _no_file(self) -> bool:
        with self.device.locked() as core:
            return not core.table.files

    # ---- the step in progress

    def freeze(self) -> Any:
        """The device takes what comes, and ends no step until `thaw`."""
        if isinstance(self.device, SimDevice):
            self.device.freeze()
            return self.device.thaw
        return freeze_engine(self.device)

    def stop(self) -> None:
        self.reactor.stop()


class HttpHost(ServerHost):
    """A server of the drop-in's, in processes of its own. Its probe looks for us (tests/dropin/probe.py)."""

    principal = own_user()

    def __init__(self, served: Served) -> None:
        self.name = "http"
        self.is_real = True
        self.served = served
        self.path = str(served.kernel_socket)
        self.device = self

    def counters(self) -> dict[str, float]:
        found: dict[str, float] = self.served.probe("counters")
        return found

    def os_pid(self, pid: int) -> int:
        return int(self.served.probe("os_pid", pid=pid))

    def steps_and_calls(self) -> tuple[Any, Any]:
        return tuple([SimpleNamespace(**told) for told in found] for found in self.served.probe("steps_and_calls"))

    def end(self) -> None:
        self.client.close()
        self.served.probe("settle")

    def freeze(self) -> Any:
        holding = ExitStack()
        holding.enter_context(self.served.held())
        return holding.close

    def stop(self) -> None:
        """It is the session's."""


def freeze_engine(guest: Guest) -> Any:
    """Hold the engine thread between two steps; gives what lets it go."""
    import threading

    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert go.wait(WAIT_S)

    thread = threading.Thread(target=guest.call_in_engine, args=(hold,))
    thread.start()
    assert held.wait(WAIT_S)

    def thaw() -> None:
        go.set()
        thread.join()

    return thaw


def eventually(find: Any, message: Any) -> Any:
    """What it finds, as soon as that is true."""
    deadline = time.monotonic() + WAIT_S
    while not (found := find()):
        assert time.monotonic() < deadline, message() if callable(message) else message
        os.sched_yield()
        time.sleep(0.001)
    return found


def own_host(shared: SharedHost, path: str) -> ServerHost:
    return ServerHost("own", Guest(shared), path)
