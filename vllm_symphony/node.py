"""The node: one server, put together (node.py). The composition root; `symphony serve` is its only door.

    symphony serve (this process: the edge)  --starts-->  kernel host (engine/main.py, a child)
        gRPC on symphony.sock, other doors                  kernel.sock, status lines, SIGTERM
    with HTTP the child is vLLM's own server (web/main.py), and the kernel lives in its engine process

    lock the run directory -> listen, NOT_SERVING -> start the host -> it says ready -> link -> SERVING
    asked to stop          -> NOT_SERVING, no new calls, those in flight get a grace -> TERM the host -> 0
    asked twice            -> kill the host, drop the calls -> 130
    the host dies          -> NOT_SERVING, calls end with ENODEV -> 70, or what it said while it started

However it ends: no socket, no process left.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from vllm_symphony.abi.address import HostPort
from vllm_symphony.client.address import TOKEN_NAME, check_socket_path
from vllm_symphony.edge.credentials import OWN
from vllm_symphony.edge.door import doors
from vllm_symphony.edge.guard import Rules
from vllm_symphony.edge.host_process import AdoptedHost, HostProcess
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.own_token import OwnToken
from vllm_symphony.edge.run_dir import claim
from vllm_symphony.edge.seeing import Seeing, Seen
from vllm_symphony.edge.server import EdgeServer, give_way
from vllm_symphony.edge.state_dir import default_state_dir
from vllm_symphony.edge.tls import ServerTls
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import SymphonyError
from vllm_symphony.store.state import FOLDER, SPOOL

HOST_COMMAND = (sys.executable, "-m", "vllm_symphony.engine.main")
WEB_COMMAND = (sys.executable, "-m", "vllm_symphony.web.main")  # vLLM's HTTP server; the kernel host is vLLM's engine process
Host = HostProcess | AdoptedHost
EXIT_DEVICE_LOST = 70
LAST_WORDS_S = 0.5  # for calls that end with ENODEV to say so
EXIT_USAGE = 2  # of the host: vLLM refused its flags, and has said why
EXIT_STOPPED_AT_ONCE = 130


@dataclass(frozen=True, slots=True)
class Settings:
    """What to serve, and where. `model_args` (model, vLLM flags) and `host_flags` go to the kernel host as they are."""

    run_dir: Path
    socket: Path
    model_args: tuple[str, ...] = ()
    host_flags: tuple[str, ...] = ()
    host_log: Path | None = None  # None: the host prints to our stderr
    grace_s: float = 5.0  # for calls in flight when asked to stop
    host_grace_s: float = 15.0  # for the host after it
    listen: tuple[str, ...] = ()  # doors beside the socket
    tls: ServerTls | None = None  # of the TCP doors
    state_dir: Path = field(default_factory=default_state_dir)  # holds the tokens, and below `fs` the files
    keeps_files: bool = True  # they outlive the server
    unconfined: bool = False  # programs are, and scope `run` works for everybody who has it
    http: HostPort | None = None  # vLLM's HTTP door, with the kernel in its engine
    is_adopted: bool = False  # vLLM's own launch line has started us (edge/host_process.py)
    seen: Seen = field(default_factory=Seen)  # who looks at us: metrics, traces
    rules: Rules = field(default_factory=Rules)  # of all doors: how fast, and what is recorded

    def shown(self) -> str:
        """For the audit log: the settings that count for who may do what, and of the host's flags only their names."""
        words = [*(f"--listen={a}" for a in self.listen), *self.rules.words()]
        words += [name for name, is_so in (("TLS", self.tls), ("--unconfined", self.unconfined)) if is_so]
        words += [word.partition("=")[0] for word in (*self.host_flags, *self.model_args) if word.startswith("--")]
        return " ".join(words)


class Progress(Protocol):
    """Who is told how the server fares."""

    def listening(self, addresses: Sequence[str]) -> None:
        """The doors are open; calls are told to come again until it is ready."""

    def phase(self, text: str) -> None:
        """The host does this now, until it is ready."""

    def ready(self, info: dict[str, Any]) -> None:
        """It serves."""

    def stopping(self, grace_s: float) -> None:
        """It was asked to stop."""

    def failed(self, message: str) -> None:
        """It cannot go on; `serve` returns soon."""


def serve(settings: Settings, progress: Progress) -> int:
    """Serve until asked to stop; gives the exit code.

    Raises: FileExists, AccessDenied, NameTooLong, InvalidArgument: the run directory or a door cannot be used; nothing was started.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a session takes two here and one in the host, which inherits this
    return asyncio.run(_Node(settings, progress).serve())


class _Node:
    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._socket = check_socket_path(settings.socket)
        self._kernel_socket = check_socket_path(settings.run_dir / "kernel.sock")
        self._doors = doors(settings.listen, settings.tls, has_http=settings.http is not None)
        if settings.tls and settings.http is not None:
            settings.tls.load()  # vLLM would say less of what is wrong, and later
        self._asked, self._asked_twice = asyncio.Event(), asyncio.Event()
        self._error: tuple[str, int] | None = None  # the host's last words and its exit code
        self._kernel = KernelLink(str(self._kernel_socket))
        self._seeing = Seeing(settings.seen, self._kernel, settings.tls)

    async def serve(self) -> int:
        with claim(self._settings.run_dir):
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._ask)
            spool = self._settings.state_dir / FOLDER / SPOOL if self._settings.keeps_files else None
            guard = self._settings.rules.guard(self._settings.state_dir, "grpc")
            edge = EdgeServer(
                self._kernel, str(self._socket), doors=self._doors, identity=self._identity(), guard=guard, spool=spool
            )
            await edge.start()
            code: int | None = None
            try:
                guard.audit.demand(**self._line("start"))
                guard.audit.write(**self._line("start"), outcome="OK", flags=self._settings.shown())
                self._seeing.open()
                self._progress.listening([*edge.addresses, *self._seeing.addresses])
                code = await self._with_host(edge)
                return code
            finally:
                guard.audit.write(**self._line("stop"), outcome="EIO" if code is None else f"exit {code}")
                guard.audit.close()
                await self._seeing.close()
                self._kernel.close()
                await edge.stop(LAST_WORDS_S)
                self._kernel_socket.unlink(missing_ok=True)  # a killed host leaves it

    def _line(self, action: str) -> dict[str, Any]:
        """What the audit log says of the server itself."""
        return {"principal": OWN.principal, "door": "cli", "action": action, "target": "server"}

    def _identity(self) -> Identity:
        settings, own = self._settings, OwnToken(self._settings.run_dir / TOKEN_NAME)
        own.withdraw()  # what a killed server left
        on_loopback = any(door.is_loopback for door in self._doors) or settings.http is not None or settings.is_adopted
        return Identity(TokenFile(settings.state_dir), own if on_loopback else None, unconfined=settings.unconfined)

    def _ask(self) -> None:
        (self._asked_twice if self._asked.is_set() else self._asked).set()

    async def _with_host(self, edge: EdgeServer) -> int:
        settings = self._settings
        with _opened(settings.host_log) as log:
            host = await self._start_host(log)
            give_way()  # after the start: the host would inherit it
            try:
                return await self._watch(host, edge)
            finally:
                host.kill()
                await host.wait()

    async def _start_host(self, log: IO[bytes] | None) -> Host:
        settings = self._settings
        kept = ("--state-dir", str(settings.state_dir / FOLDER)) if settings.keeps_files else ()
        words = ("--socket", str(self._kernel_socket), *kept, *settings.host_flags)
        if settings.is_adopted:
            told = {"words": words, "run_dir": str(settings.run_dir), "state_dir": str(settings.state_dir),
                    "unconfined": settings.unconfined, "rules": settings.rules.text()}  # fmt: skip
            return await AdoptedHost.meet(told)
        command: tuple[str, ...] = HOST_COMMAND
        if settings.http is not None:
            command = (*WEB_COMMAND, "--http", str(settings.http), "--run-dir", str(settings.run_dir),
                       "--tokens", str(settings.state_dir), "--rules", settings.rules.text())  # fmt: skip
        tls = settings.tls.of_vllm() if settings.tls and settings.http is not None else ()
        return await HostProcess.start((*command, "--status-fd", "{status_fd}", *words, "--", *settings.model_args, *tls), log)

    async def _watch(self, host: Host, edge: EdgeServer) -> int:
        """Until the host ends, the kernel is lost, or we are asked to stop."""
        async with asyncio.TaskGroup() as tasks:
            exited = tasks.create_task(host.wait())
            reports = tasks.create_task(self._listen(host, edge))
            watch = tasks.create_task(edge.watch())
            seeing = tasks.create_task(self._seeing.run())
            others = [tasks.create_task(event.wait()) for event in (self._asked, self._asked_twice, self._kernel.lost)]
            asked, twice, lost = others
            try:
                await asyncio.wait((exited, asked, lost), return_when=asyncio.FIRST_COMPLETED)
                if asked.done() and not exited.done():
                    return await self._stop(tasks.create_task(self._drain(host, edge)), twice, host)
                await edge.lost()
                if not host.is_ours:
                    host.kill()  # else `exited` waits for words that nobody reads any more
                    return 0
                code = await host.stop(self._settings.host_grace_s)
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(reports), 1.0)  # its last words
                return self._died(code)
            finally:
                for task in (reports, watch, seeing, *others):
                    task.cancel()

    async def _listen(self, host: Host, edge: EdgeServer) -> None:
        """Take the host's status lines."""
        async for message in host.status():
            if "phase" in message:
                self._kernel.phase = str(message["phase"])
                self._progress.phase(self._kernel.phase)
            elif "error" in message:
                self._error = (str(message["error"]), int(message.get("exit", EXIT_DEVICE_LOST)))
            elif "ready" in message:
                try:
                    await self._kernel.open()
                except SymphonyError as e:
                    self._error = (str(e), EXIT_DEVICE_LOST)
                    self._kernel.close()
                    return
                info = message["ready"] or {}
                await edge.ready(info.get("confinement", {}))
                self._progress.ready(info)

    async def _drain(self, host: Host, edge: EdgeServer) -> None:
        self._progress.stopping(self._settings.grace_s)
        await edge.stop(self._settings.grace_s)
        await host.stop(self._settings.host_grace_s)

    async def _stop(self, drain: asyncio.Task[None], twice: asyncio.Task[bool], host: Host) -> int:
        await asyncio.wait((drain, twice), return_when=asyncio.FIRST_COMPLETED)
        if drain.done():
            return 0
        host.kill()
        drain.cancel()
        return EXIT_STOPPED_AT_ONCE

    def _died(self, code: int) -> int:
        log = self._settings.host_log
        if self._error:
            message, code = self._error
            message += f" (the host's log: {log})" if log else ""
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            message, code = f"the kernel host ended by {how}", EXIT_DEVICE_LOST
        if log and (code == EXIT_USAGE or not self._error):
            message += _last_lines(log)
        self._progress.failed(message)
        return code or EXIT_DEVICE_LOST


@contextmanager
def _opened(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
    else:
        with log.open("wb") as file:
            yield file


def _last_lines(log: Path, num_lines: int = 15) -> str:
    lines = log.read_text(errors="replace").splitlines()[-num_lines:] if log.exists() else []
    return f"; the end of {log}:\n  " + "\n  ".join(lines) if lines else ""
