"""Where attacks are tried: a server as a user starts it, a client as a user has it, and a well-behaved program beside each attack.

    outcome = arena.attack("resources", "fork_bomb")     code, reason, value, error, what it printed
                  |-- the bystander runs to its known end meanwhile, and again afterwards
                  `-- then nothing is left: no program, call, file, channel, page, process, descriptor

The programs are in tests/attacks/programs; each returns what came of its attempts.
"""

import asyncio
import gc
import os
import pty
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.leaks import children_of
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.client import Client, Program, ServerUnreachable, connect
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import SymphonyError

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
SECRET = "only-the-operator-knows-7c1d"
SETTLE_S = 60.0
ATTACK_S = 100.0
T = TypeVar("T")

BYSTANDER = """
from vllm_symphony import lip

async def main(n: int = 20) -> int:
    async with lip.open(tokens=[1, 2, 3]) as file:
        for i in range(n):
            await file.forward([i + 4])
    return n * 2
"""


@dataclass(frozen=True)
class Outcome:
    """How an attack ended. One that was refused before it was a process has code -1, and the error's reason."""

    code: int
    reason: str
    value: Any = None
    error: str = ""
    printed: str = ""


@dataclass(frozen=True)
class How:
    """How an attack is started: as whom (a token), with what; `beside` the bystander."""

    limits: ResourceLimits | None = None
    token: str | None = None
    tools: tuple[str, ...] = ()
    beside: bool = True


PLAIN = How()


def program(file: str, entry: str) -> Program:
    """An attack of tests/attacks/programs."""
    return Program((PROGRAMS / f"{file}.py").read_text(), entry, f"{entry}.py")


@dataclass
class Arena:
    """One server. `address` is its own user's door."""

    run_dir: Path
    process: "subprocess.Popen[bytes]"
    tokens: set[str] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"unix:{self.run_dir / 'symphony.sock'}"

    def attack(self, file: str, entry: str, *, how: How = PLAIN, **args: Any) -> Outcome:
        """Run it beside the bystander, and see that nothing is left of it."""
        return self.run(program(file, entry), how=how, **args)

    def run_fast(self, file: str, entry: str, **args: Any) -> Outcome:
        """Without the bystander and the look around: for many small attacks of one kind."""

        async def work(client: Client) -> Outcome:
            end = (result := await client.run(program(file, entry), **args).result()).exit
            return Outcome(end.code, end.reason, result.value, end.error or "")

        return self.talk(work)

    def run(self, program: Any, *, how: How = PLAIN, **args: Any) -> Outcome:
        """One program, as `attack`."""
        return self.run_all([program], how=how, **args)[0]

    def run_all(self, programs: list[Any], *, how: How = PLAIN, **args: Any) -> list[Outcome]:
        """Several at once."""
        before = self.look()

        async def one(client: Client, program: Any) -> Outcome:
            run = client.run(program, limits=how.limits, tools=how.tools, **args)
            try:
                printed = [event.text or "" async for event in run if event.kind in ("stdout", "stderr")]
                result = await run.result()
            except SymphonyError as e:
                return Outcome(-1, e.reason, error=e.message)
            return Outcome(result.exit.code, result.exit.reason, result.value, result.exit.error or "", "".join(printed))

        async def together(client: Client) -> list[Outcome]:
            async with connect(self.address, token=how.token) as attacker, asyncio.timeout(ATTACK_S):
                bystander = asyncio.ensure_future(client.run(BYSTANDER).result()) if how.beside else None
                outcomes = await asyncio.gather(*(one(attacker, program) for program in programs))
                assert bystander is None or (await bystander).value == 40, "the bystander did not run on"
            return outcomes

        outcomes = self.talk(together)
        assert self.talk(lambda client: client.run(BYSTANDER).result()).value == 40, "the server does not run programs any more"
        self.settle(before)
        return outcomes

    def talk(self, work: Any, token: str = "") -> Any:
        """What `work(client)` gives."""

        async def main() -> Any:
            async with connect(self.address, token=token or None) as client:
                given = work(client)
                return await given if isinstance(given, Coroutine) else given

        try:
            return asyncio.run(main())
        finally:
            gc.collect()  # what an error's traceback holds of a channel keeps its socket open

    def refusal(self, work: Any, token: str = "") -> str:
        """The reason and message of the error that it ends with, or what it gave."""
        try:
            said = f"gave {self.talk(work, token)!r}"
        except SymphonyError as e:
            said = str(e)
        gc.collect()  # now that the error and its frames are gone
        return said

    def token(self, principal: str, *scopes: str) -> str:
        """A way in for somebody else."""
        token, text = make(f"{principal}-{len(self.tokens)}", principal, scopes=scopes or ("run",), now_s=time.time())
        TokenFile(self.run_dir / "state").add(token)
        self.tokens.add(token.name)
        return text

    def shown(self, *words: str) -> str:
        """What a command writes to a terminal."""
        environment = {
            **os.environ,
            "SYMPHONY_RUN_DIR": str(self.run_dir),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "NO_COLOR": "1",
        }
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "vllm_symphony.cli.main", *words]
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs):
            os.close(theirs)
            written = b""
            with suppress(OSError):  # how the end of a terminal looks
                while data := os.read(ours, 1 << 16):
                    written += data
        os.close(ours)
        return written.decode()

    def last_pid(self, name: str) -> int:
        """Of the program with this name."""
        return max(p.pid for p in self.talk(lambda client: client.ps()) if p.name == name)

    def info(self) -> dict[str, Any]:
        return dict(self.talk(lambda client: client.info()).detail)

    # ---- what is there

    @property
    def host(self) -> psutil.Process:
        """The kernel's host."""
        return next(p for p in psutil.Process(self.process.pid).children() if "engine.main" in " ".join(p.cmdline()))

    def zygote(self, image: str = "python") -> psutil.Process | None:
        for process in children_of(self.host.pid):
            words = process.cmdline()
            if "vllm_symphony.runtime.zygote" in words and image in words:
                return process
        return None

    def look(self) -> dict[str, Any]:
        """What must be as before when an attack is over."""
        info = self.info()
        kernel = {name: n for name, n in info["kernel"].items() if name not in ("zombies", "calls_ended", "processes", "threads")}
        engine = {name: info["engine"][name] for name in ("files", "jobs", "pages_held", "rows_kept", "parked")}
        return {"kernel": kernel, "engine": engine, "host fds": self.host.num_fds() // 8}

    def settle(self, before: dict[str, Any]) -> None:
        """Until all is as it was; what is not by then was left behind."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            now = self.look()
            strangers = self.strangers()
            if now == before and not strangers:
                return
            assert time.monotonic() < deadline, f"left behind: {before} -> {now}; processes {strangers}"
            time.sleep(0.05)

    def strangers(self) -> list[str]:
        """Processes below the fork servers that are not its own: forked by a program. And programs that nobody runs."""
        found = []
        for image in ("python", "wasm"):
            zygote = self.zygote(image)
            for child in children_of(zygote.pid) if zygote is not None else ():
                found += [f"{p.pid} below {child.pid}" for p in children_of(child.pid)]
        return found


def start(run_dir: Path, *flags: str, before: Any = None, **environment: str) -> Arena:
    """A server on the simulated device; `before` runs in its process before anything else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
    given = {"SYMPHONY_RUN_DIR": str(run_dir), "SYMPHONY_STATE_DIR": str(run_dir / "state"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vllm_symphony.cli.main", "serve", "--device", "sim", "--log-level", "info", *flags]
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**kept, **given, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=before
        )
    return Arena(run_dir, process)


def ready(arena: Arena) -> Arena:
    """Wait until it serves."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(SymphonyError, ServerUnreachable):  # not there yet
            arena.info()
            return arena
        said = (arena.run_dir / "serve.log").read_text(errors="replace")
        assert arena.process.poll() is None and time.monotonic() < deadline, f"the server did not start:\n{said}"
        time.sleep(0.1)


def stop(arena: Arena) -> None:
    arena.process.terminate()
    try:
        arena.process.wait(60)
    except subprocess.TimeoutExpired:
        arena.process.kill()
        arena.process.wait(60)
