import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from tests.leaks import Allowed
from tests.web.conftest import HttpDoor, Late
from vllm_symphony.abi.calls import FdArgs, Forward, Kill, Spawn
from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.audit import files as audit_files
from vllm_symphony.edge.credentials import OWN
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.web import live

WAIT_S = 60.0  # on a machine with much else to do

TALKER = """
from vllm_symphony import lip

async def main(say: str = "hello"):
    print(say)
    lip.emit({"said": say})
    async with lip.open(tokens=[1, 2, 3]) as file:
        while True:
            await file.generate(4, ignore_eos=True)
            await file.truncate(3)
            await lip.sleep(0.05)
"""

PARENT = """
from vllm_symphony import lip

async def child():
    await lip.sleep(600)

async def main():
    await lip.spawn(child)
    await lip.sleep(600)
"""


class Site(HttpDoor):
    """The live page behind the door, over a kernel on the simulated device. Without vLLM."""

    def _app(self) -> Any:
        self.audit = Audit(self.server.run_dir / "state")
        identity = Identity(self.tokens)
        identity.confined("A")

        @asynccontextmanager
        async def lifespan(app: Starlette) -> Any:
            self._loop = asyncio.get_running_loop()
            self.link = KernelLink(str(self.server.run_dir / "kernel.sock"))
            await self.link.open()
            app.state.symphony = SimpleNamespace(link=self.link, audit=self.audit)
            app.state.server = self._uvicorn
            door.keywords["link"] = self.link
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(identity.watch())
                yield
                watching.cancel()
            self.link.close()

        door = Late(Starlette(routes=live.routes(), lifespan=lifespan), identity=identity)
        return door

    def stop(self) -> None:
        super().stop()
        self.audit.close()

    def lines(self, action: str) -> list[dict[str, Any]]:
        """What the audit log says of an action."""
        text = "".join(path.read_text() for path in audit_files(self.server.run_dir / "state"))
        return [line for line in map(json.loads, text.splitlines()) if line["action"] == action]

    def on(self, port: int) -> "Site":
        """At the port of one that was there before."""
        self._config.port = port
        return self

    def ask(self, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **more.pop("headers", {})}
        return httpx.request(more.pop("method", "GET"), f"{self.url}/symphony/{path}", headers=headers, timeout=WAIT_S, **more)

    def kill(self, pid: object, signal: object, token: str) -> httpx.Response:
        return self.ask("api/kill", token, method="POST", json={"pid": pid, "signal": signal})

    @contextmanager
    def events(self, path: str, token: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """The events of a stream as (kind, data), until its end."""
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.stream("GET", f"{self.url}/symphony/{path}", headers=headers, timeout=WAIT_S) as answer:
            assert answer.status_code == 200, answer.read()
            yield _events(answer.iter_lines())

    def compute(self, fd: int) -> None:
        """Have a file's pages on the device; it is closed then."""
        self.call("forward", Forward(fd))
        self.call("close", FdArgs(fd))

    def spawn(self, source: str = TALKER, cred: Credentials = OWN, **more: Any) -> int:
        """Start a program; gives its pid."""
        pid: int = self.call("spawn", Spawn(source=source, detach=True, **more), cred).pid
        return pid


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    kind = "message"
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)
            kind = "message"


@dataclass(frozen=True)
class Who:
    """A principal at the page."""

    cred: Credentials
    token: str


@pytest.fixture(scope="session")
def leaks_allowed() -> Allowed:
    """A browser keeps processes between tests, and connections to the site, whose server and audit log are in this process."""
    return Allowed(children=(*Allowed().children, "chrom"), fds=(*Allowed().fds, "socket:", "audit.jsonl"))


@pytest.fixture(scope="session")
def site(sim_server) -> Iterator[Site]:
    site = Site(sim_server)
    site.start()
    yield site
    site.stop()


@pytest.fixture(scope="session")
def root(site) -> Who:
    """Scope admin."""
    return Who(OWN, site.token("page-root", OWN.principal, scopes=("admin", "run")))


@pytest.fixture(scope="session")
def alice(site) -> Who:
    return Who(Credentials("alice", scopes=("run",)), site.token("page-alice", "alice"))


@pytest.fixture
def start(site) -> Iterator[Callable[..., int]]:
    """Starts programs, which end with the test."""
    pids: list[int] = []

    def spawn(*args: Any, **more: Any) -> int:
        pids.append(site.spawn(*args, **more))
        return pids[-1]

    yield spawn
    for pid in pids:
        site.call("kill", Kill(pid, "KILL"))


def until(look: Callable[[], Any], what: str = "") -> Any:
    """What `look` gives, when it is true."""
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"never: {what or look}"
        time.sleep(0.05)
    return found
