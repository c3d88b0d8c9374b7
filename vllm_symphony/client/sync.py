"""The client without asyncio (client/sync.py). Made by scripts/sync_client from the asynchronous one; never edited.

    with connect_sync() as symphony:
        for event in symphony.run("best_of_n.py", question="What is the capital of France?"):
            print(event.kind, event.text)

One event loop in a background thread for each client. Remote programs stay asynchronous: `run_here(main)` runs one.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from vllm_symphony.abi.calls import (
    DuResult,
    FindResult,
    FsckResult,
    GcResult,
    ImportResult,
    ProgramTextResult,
    RlimitResult,
    RusageResult,
    SchedResult,
    SendResult,
    StracePart,
    SyncResult,
    WatchPart,
    WhyResult,
)  # fmt: skip
from vllm_symphony.abi.types import (
    ChannelStat,
    FileStat,
    FsStat,
    Message,
    MetricSample,
    ModelInfo,
    ProcessEvent,
    ProgramInfo,
    Quota,
    ResourceLimits,
    Signal,
    ToolInfo,
)  # fmt: skip
from vllm_symphony.client.channel import Tls
from vllm_symphony.client.client import Client, ServerInfo, connect
from vllm_symphony.client.display import FileList, ProcessList
from vllm_symphony.client.feeding import Stdin
from vllm_symphony.client.files import FileText
from vllm_symphony.client.packs import Moved
from vllm_symphony.client.portal import Portal
from vllm_symphony.client.retry import Retry
from vllm_symphony.client.run import Program, Run, RunResult

T = TypeVar("T")
_END: Any = object()


def connect_sync(
    target: str | os.PathLike[str] | None = None, *, token: str | None = None, tls: Tls | None = None, retry: Retry | None = None
) -> SyncClient:
    """A client of the server at `target`: a unix socket's path, HOST:PORT or grpcs://HOST:PORT. Use it in `with`.

    What is not given is found as address.py, token.py and channel.py tell. `retry`: when calls are made again (`Retry(tries=1)`:
    never).

    Raises:
        InvalidArgument: target, token and TLS do not fit together; another machine is reached by TLS only.
        AccessDenied: a token file cannot be read or is not private.
        NameTooLong: no socket can have this path.
    """
    return SyncClient(connect(target, token=token, tls=tls, retry=retry))


class SyncClient:
    """A connection. Made by `connect_sync`; use it in `with`, from any number of threads."""

    def __init__(self, client: Client) -> None:
        self.target = client.target
        self._client = client

    def __enter__(self) -> SyncClient:
        self._portal = Portal(self._leave)
        try:
            self._portal.call(self._client.__aenter__())
        except BaseException:
            self._portal.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._portal.close()

    async def _leave(self) -> None:
        await self._client.__aexit__(None, None, None)

    def run_here(self, main: Callable[..., Awaitable[T] | T], /, **args: Any) -> T:
        """Run `main` in this process as a remote program, and give what it returned. Raises what `session` and `main` raise."""
        return self._portal.call(self._client.run_here(main, **args))

    def run(
        self,
        program: str | bytes | os.PathLike[str] | Program,
        /,
        *,
        limits: ResourceLimits | None = None,
        tools: Sequence[str] = (),
        stdin: Stdin = None,
        **args: Any,
    ) -> SyncRun:
        """Run a program with these arguments; nothing happens before the first read.

        program   its path (.py, .wasm), its text, a module's bytes, the name of an installed one, or a `Program`
        limits    of it and all that it spawns; None: the server's
        tools     globs of the tools that it may call
        stdin     its standard input: bytes, a text, or pieces of bytes as they come; True: by `Run.feed`
        """
        return SyncRun(
            self._portal, self._portal.do(lambda: self._client.run(program, limits=limits, tools=tools, stdin=stdin, **args))
        )

    def spawn(
        self,
        program: str | bytes | os.PathLike[str] | Program,
        /,
        *,
        limits: ResourceLimits | None = None,
        tools: Sequence[str] = (),
        stdin: bool = False,
        **args: Any,
    ) -> int:
        """Start a program that outlives this client; gives its pid. What it takes is told by `run`; `stdin`: by `feed`."""
        return self._portal.call(self._client.spawn(program, limits=limits, tools=tools, stdin=stdin, **args))

    def feed(self, pid: int, data: bytes | str = b"", *, eof: bool = False, timeout_s: float | None = None) -> None:
        """Write to a program's standard input, and with `eof` close it; waits while it has too much unread."""
        self._portal.call(self._client.feed(pid, data, eof=eof, timeout_s=timeout_s))

    def attach(self, pid: int, *, from_seq: int = 1, follow: bool = True) -> Generator[ProcessEvent, None, None]:
        """The events of a process from number `from_seq` on, until it ends (`follow`) or until no more are kept.

        A connection that broke is made again; events that the server dropped show as one of kind `gap`.
        """
        return self._portal.iterate(lambda: self._client.attach(pid, from_seq=from_seq, follow=follow))

    def logs(self, pid: int, *, timeout_s: float | None = None) -> list[ProcessEvent]:
        """The events of a process that are kept now."""
        return self._portal.call(self._client.logs(pid, timeout_s=timeout_s))

    def wait(self, pid: int, timeout_s: float | None = None) -> RunResult:
        """Until the process ended; how it did."""
        return self._portal.call(self._client.wait(pid, timeout_s))

    def kill(self, pid: int, signal: str = Signal.TERM, *, timeout_s: float | None = None) -> None:
        """Send TERM, KILL, STOP or CONT."""
        self._portal.call(self._client.kill(pid, signal, timeout_s=timeout_s))

    def ps(self, pid: int | None = None, *, timeout_s: float | None = None) -> ProcessList:
        """Processes, by pid; those that ended not long ago too. It prints as a tree."""
        return self._portal.call(self._client.ps(pid, timeout_s=timeout_s))

    def strace(
        self, pid: int | None = None, *, follow: bool = False, children: bool = False, steps: bool = False
    ) -> Generator[StracePart, None, None]:
        """The event log, in parts: of one process, with `children` of all that it spawned, or of all that the caller may see."""
        return self._portal.iterate(lambda: self._client.strace(pid, follow=follow, children=children, steps=steps))

    def why(self, pid: int, *, timeout_s: float | None = None) -> WhyResult:
        """What each thread of a process waits for."""
        return self._portal.call(self._client.why(pid, timeout_s=timeout_s))

    def limits(self, pid: int | None = None, *, principal: str | None = None, timeout_s: float | None = None) -> RlimitResult:
        """What a process with all below it, or a principal with all its programs, may use, and has used; of neither: yours."""
        return self._portal.call(self._client.limits(pid, principal=principal, timeout_s=timeout_s))

    def set_limits(
        self, limits: ResourceLimits, pid: int | None = None, *, principal: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Lower limits of a process, field by field; scope admin may raise them, and sets those of principals (below 0: none)."""
        self._portal.call(self._client.set_limits(limits, pid, principal=principal, timeout_s=timeout_s))

    def usage(self, pid: int, *, timeout_s: float | None = None) -> RusageResult:
        """What a process has used, its children, and each of its threads."""
        return self._portal.call(self._client.usage(pid, timeout_s=timeout_s))

    def sched(self, *, timeout_s: float | None = None) -> SchedResult:
        """Which policies decide who computes, who waits, and what part of the device you have (scope admin: everybody)."""
        return self._portal.call(self._client.sched(timeout_s=timeout_s))

    def set_policy(
        self, level: str, policy: str = "", parameters: Mapping[str, float] | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Let a policy decide at a level (`process`, `memory`, `batch`) from here on; none: that of the start. Scope admin."""
        self._portal.call(self._client.set_policy(level, policy, parameters, timeout_s=timeout_s))

    def set_weight(
        self, principal: str, weight: float | None = None, *, cap: int | None = None, timeout_s: float | None = None
    ) -> None:
        """Set a principal's part of the device, and the most of its calls that compute at once (below 0: any). Scope admin."""
        self._portal.call(self._client.set_weight(principal, weight, cap=cap, timeout_s=timeout_s))

    def model(self, *, timeout_s: float | None = None) -> ModelInfo:
        """The model and its limits."""
        return self._portal.call(self._client.model(timeout_s=timeout_s))

    def tokenize(self, text: str, *, special: bool = True, timeout_s: float | None = None) -> list[int]:
        """Token ids of a text."""
        return self._portal.call(self._client.tokenize(text, special=special, timeout_s=timeout_s))

    def detokenize(self, tokens: list[int], *, skip_special: bool = True, timeout_s: float | None = None) -> str:
        """The text of token ids."""
        return self._portal.call(self._client.detokenize(tokens, skip_special=skip_special, timeout_s=timeout_s))

    def ping(self, *, timeout_s: float | None = None) -> float:
        """Seconds that the edge waited for the kernel's answer."""
        return self._portal.call(self._client.ping(timeout_s=timeout_s))

    def metrics(self, *, timeout_s: float | None = None) -> tuple[MetricSample, ...]:
        """All that the server counts (docs/metrics.md). Needs scope admin."""
        return self._portal.call(self._client.metrics(timeout_s=timeout_s))

    def info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Versions, model, counters."""
        return self._portal.call(self._client.info(timeout_s=timeout_s))

    def ls(self, prefix: str = "/", *, timeout_s: float | None = None) -> FileList:
        """Named files (not directories) whose path begins with `prefix`, by name."""
        return self._portal.call(self._client.ls(prefix, timeout_s=timeout_s))

    def listdir(self, path: str = "/", *, recursive: bool = False, timeout_s: float | None = None) -> FileList:
        """Files and directories in the directory, by name; `recursive`: and all below it."""
        return self._portal.call(self._client.listdir(path, recursive=recursive, timeout_s=timeout_s))

    def mkdir(self, path: str, *, mode: int = 511, parents: bool = False, timeout_s: float | None = None) -> None:
        """Make a directory, with `mode` less the bits 0o022. `parents`: those above it too, and one that exists is no error."""
        self._portal.call(self._client.mkdir(path, mode=mode, parents=parents, timeout_s=timeout_s))

    def rmdir(self, path: str, *, timeout_s: float | None = None) -> None:
        """Take an empty directory away."""
        self._portal.call(self._client.rmdir(path, timeout_s=timeout_s))

    def rm(self, path: str, *, timeout_s: float | None = None) -> None:
        """Take a file's name away."""
        self._portal.call(self._client.rm(path, timeout_s=timeout_s))

    def mv(self, old: str, new: str, *, timeout_s: float | None = None) -> None:
        """Give a file or a directory another name, replacing the file or the empty directory that has it."""
        self._portal.call(self._client.mv(old, new, timeout_s=timeout_s))

    def link(self, path: str, new_path: str, *, replace: bool = False, timeout_s: float | None = None) -> None:
        """Give a file a further name; `replace`: what has it loses it, atomically."""
        self._portal.call(self._client.link(path, new_path, replace=replace, timeout_s=timeout_s))

    def copy(self, src: str, dst: str, *, replace: bool = False, timeout_s: float | None = None) -> None:
        """Make a file that shares all pages of another: no work, no new pages until one of them is written."""
        self._portal.call(self._client.copy(src, dst, replace=replace, timeout_s=timeout_s))

    def cat(
        self, path: str, *, offset: int = 0, count: int | None = None, text: bool = True, timeout_s: float | None = None
    ) -> FileText:
        """Tokens [offset, offset + count) of a file."""
        return self._portal.call(self._client.cat(path, offset=offset, count=count, text=text, timeout_s=timeout_s))

    def stat(self, path: str, *, timeout_s: float | None = None) -> FileStat:
        """One file or directory."""
        return self._portal.call(self._client.stat(path, timeout_s=timeout_s))

    def chmod(self, path: str, mode: int, *, timeout_s: float | None = None) -> None:
        """Set the rights: bits 0o777 of a file, 0o3777 of a directory."""
        self._portal.call(self._client.chmod(path, mode, timeout_s=timeout_s))

    def chown(self, path: str, owner: str | None = None, group: str | None = None, *, timeout_s: float | None = None) -> None:
        """Give it to another principal (scope admin), or to a group that the caller is in."""
        self._portal.call(self._client.chown(path, owner, group, timeout_s=timeout_s))

    def setxattr(
        self, path: str, name: str, value: str, *, create: bool = False, replace: bool = False, timeout_s: float | None = None
    ) -> None:
        """Set an extended attribute. `create`: it must be new; `replace`: it must exist."""
        self._portal.call(self._client.setxattr(path, name, value, create=create, replace=replace, timeout_s=timeout_s))

    def getxattr(self, path: str, name: str, *, timeout_s: float | None = None) -> str:
        """One extended attribute."""
        return self._portal.call(self._client.getxattr(path, name, timeout_s=timeout_s))

    def listxattr(self, path: str, *, timeout_s: float | None = None) -> dict[str, str]:
        """All extended attributes, by name."""
        return self._portal.call(self._client.listxattr(path, timeout_s=timeout_s))

    def removexattr(self, path: str, name: str, *, timeout_s: float | None = None) -> None:
        """Take an extended attribute away."""
        self._portal.call(self._client.removexattr(path, name, timeout_s=timeout_s))

    def find(
        self,
        path: str = "/",
        *,
        name: str = "",
        text: str = "",
        owner: str = "",
        kind: str = "",
        fidelity: str = "",
        xattr: dict[str, str] | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        min_age_s: float | None = None,
        max_age_s: float | None = None,
        limit: int = 1000,
        timeout_s: float | None = None,
    ) -> FindResult:
        """Files and directories below `path` that fit all of what is given, by path; with `text` the best match first.

        `name`: a glob on the last part of the path. `text`: words as in SQLite FTS5. `xattr`: name of an attribute -> a glob on its
        value. Lengths in tokens, ages since the tokens changed. `kind`: file or dir. `fidelity`: exact, pruned or approximate.
        """
        return self._portal.call(
            self._client.find(
                path,
                name=name,
                text=text,
                owner=owner,
                kind=kind,
                fidelity=fidelity,
                xattr=xattr,
                min_length=min_length,
                max_length=max_length,
                min_age_s=min_age_s,
                max_age_s=max_age_s,
                limit=limit,
                timeout_s=timeout_s,
            )
        )

    def watch(self, path: str = "/", *, recursive: bool = True) -> Generator[WatchPart, None, None]:
        """What happens to the file, or in the directory (`recursive`: and below it), in parts, without end.

        The first part is empty: from then on nothing is missed, but what a part counts as `missing` because it was read too slowly.
        A connection that breaks ends it with ServerUnreachable: look again at what there is, then watch again.
        """
        return self._portal.iterate(lambda: self._client.watch(path, recursive=recursive))

    def chattr(
        self,
        path: str,
        *,
        durable: str | None = None,
        expires_s: float | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Say how it is kept; None: as it is.

        `durable` of a directory, for the files in it: none, tokens, pages, or "" as the directory above. `expires_s` of a file: it
        is unlinked so many seconds from now, 0 never. `ttl_s` of a directory: what is made in it expires so.
        """
        self._portal.call(self._client.chattr(path, durable=durable, expires_s=expires_s, ttl_s=ttl_s, timeout_s=timeout_s))

    def pin(self, path: str, *, timeout_s: float | None = None) -> None:
        """Keep a file's pages on the device."""
        self._portal.call(self._client.pin(path, timeout_s=timeout_s))

    def unpin(self, path: str, *, timeout_s: float | None = None) -> None:
        """Let them go again when there is no room."""
        self._portal.call(self._client.unpin(path, timeout_s=timeout_s))

    def advise(
        self, path: str, advice: str = "willneed", *, tier: str = "host", wait: bool = False, timeout_s: float | None = None
    ) -> None:
        """willneed: bring the pages to the device. dontneed: demote them to the `tier` host or disk. `wait`: until it is done."""
        self._portal.call(self._client.advise(path, advice, tier=tier, wait=wait, timeout_s=timeout_s))

    def sync(self, path: str | None = None, *, timeout_s: float | None = None) -> SyncResult:
        """Write a file, or all named files of the caller, to disk as their directories say, and wait until it is there."""
        return self._portal.call(self._client.sync(path, timeout_s=timeout_s))

    def statfs(self, *, timeout_s: float | None = None) -> FsStat:
        """The file system: what there is on the device, in host memory and on disk, and what the caller has of it."""
        return self._portal.call(self._client.statfs(timeout_s=timeout_s))

    def du(self, path: str = "/", *, timeout_s: float | None = None) -> DuResult:
        """What a file, or all below a directory, costs; a page that n files share costs each 1/n."""
        return self._portal.call(self._client.du(path, timeout_s=timeout_s))

    def getquota(self, principal: str = "", *, timeout_s: float | None = None) -> Quota:
        """The caller's limits and what is used of them; with scope admin another principal's."""
        return self._portal.call(self._client.getquota(principal, timeout_s=timeout_s))

    def setquota(
        self,
        principal: str,
        *,
        device_pages: int | None = None,
        host_bytes: int | None = None,
        disk_bytes: int | None = None,
        files: int | None = None,
        rows: int | None = None,
        pinned_pages: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Set limits of a principal; scope admin. One below 0 takes the limit away, None leaves it."""
        self._portal.call(
            self._client.setquota(
                principal,
                device_pages=device_pages,
                host_bytes=host_bytes,
                disk_bytes=disk_bytes,
                files=files,
                rows=rows,
                pinned_pages=pinned_pages,
                timeout_s=timeout_s,
            )
        )

    def gc(self, *, dry_run: bool = False, timeout_s: float | None = None) -> GcResult:
        """Remove what has expired, what nobody refers to, and what the disk has no room for. `dry_run`: only say what that is."""
        return self._portal.call(self._client.gc(dry_run=dry_run, timeout_s=timeout_s))

    def fsck(self, path: str = "/", *, rebuild: bool = False, timeout_s: float | None = None) -> FsckResult:
        """Prove what is kept below `path`. `rebuild`: compute the pages of stale files again."""
        return self._portal.call(self._client.fsck(path, rebuild=rebuild, timeout_s=timeout_s))

    def export_file(
        self,
        path: str,
        local: str | os.PathLike[str],
        *,
        pages: bool = True,
        progress: Moved | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Pack a file (tokens, positions, attributes, and with `pages` its computed pages) into the local file; gives its bytes.

        Raises AccessDenied when the local file cannot be written.
        """
        return self._portal.call(self._client.export_file(path, local, pages=pages, progress=progress, timeout_s=timeout_s))

    def import_file(
        self,
        local: str | os.PathLike[str],
        path: str,
        *,
        mode: int = 384,
        trust: bool = False,
        progress: Moved | None = None,
        timeout_s: float | None = None,
    ) -> ImportResult:
        """Make a file at `path` of a packed one. Its pages are taken if the server signed them or with `trust` (scope admin); else
        they are computed again.

        Raises AccessDenied when the local file cannot be read.
        """
        return self._portal.call(
            self._client.import_file(local, path, mode=mode, trust=trust, progress=progress, timeout_s=timeout_s)
        )

    def install(
        self,
        program: str | bytes | os.PathLike[str] | Program,
        name: str,
        *,
        description: str = "",
        mode: int = 493,
        timeout_s: float | None = None,
    ) -> ProgramInfo:
        """Keep a program under `name`: owner/name@version, or name@version for your own. The same content again is no error.
        `description`: empty = what its manifest or its docstring says.

        Raises:
            InvalidArgument: the name has no version, or is none.
            FileExists: that version is there with other content.
            BadProgram: it does not parse, or needs what programs at the server cannot import.
        """
        return self._portal.call(self._client.install(program, name, description=description, mode=mode, timeout_s=timeout_s))

    def uninstall(self, program: str, *, timeout_s: float | None = None) -> None:
        """Take a version (owner/name@version) away; programs that run go on."""
        self._portal.call(self._client.uninstall(program, timeout_s=timeout_s))

    def programs(self, pattern: str = "", *, timeout_s: float | None = None) -> list[ProgramInfo]:
        """Installed programs, by name, newest version first; `pattern`: a glob on owner/name@version."""
        return self._portal.call(self._client.programs(pattern, timeout_s=timeout_s))

    def program(self, program: str, *, timeout_s: float | None = None) -> ProgramTextResult:
        """An installed program with its content; without version the latest."""
        return self._portal.call(self._client.program(program, timeout_s=timeout_s))

    def tools(self, *, timeout_s: float | None = None) -> list[ToolInfo]:
        """The tools that you may give to programs, by name."""
        return self._portal.call(self._client.tools(timeout_s=timeout_s))

    def channels(self, prefix: str = "", *, timeout_s: float | None = None) -> list[ChannelStat]:
        """Named channels that you may receive from or send to, by name."""
        return self._portal.call(self._client.channels(prefix, timeout_s=timeout_s))

    def create_channel(
        self,
        name: str,
        *,
        kind: str = "queue",
        mode: int = 384,
        capacity: int = 64,
        overflow: str = "block",
        timeout_s: float | None = None,
    ) -> None:
        """Make a channel: a `queue` or a `topic`; FileExists where the name is taken."""
        self._portal.call(
            self._client.create_channel(name, kind=kind, mode=mode, capacity=capacity, overflow=overflow, timeout_s=timeout_s)
        )

    def unlink_channel(self, name: str, *, timeout_s: float | None = None) -> None:
        """Take a channel's name away; who has it open goes on."""
        self._portal.call(self._client.unlink_channel(name, timeout_s=timeout_s))

    def send(self, name: str, data: bytes | str, *, wait: bool = True, timeout_s: float | None = None) -> SendResult:
        """Send a message. Where the queue is full: wait for room, or WouldBlock without `wait`."""
        return self._portal.call(self._client.send(name, data, wait=wait, timeout_s=timeout_s))

    def request(self, name: str, data: bytes | str, *, timeout_s: float | None = None) -> Message:
        """Send a message and wait for what its receiver answers."""
        return self._portal.call(self._client.request(name, data, timeout_s=timeout_s))

    def recv(self, name: str, *, count: int | None = None, timeout_s: float | None = None) -> Generator[Message, None, None]:
        """Messages as they come: `count` of them, or without end. TimedOut when none came for `timeout_s`."""
        return self._portal.iterate(lambda: self._client.recv(name, count=count, timeout_s=timeout_s))


class SyncRun:
    """One program's events and result. One reader; `for` again goes on where the last one stopped."""

    def __init__(self, portal: Portal, run: Run) -> None:
        self._portal = portal
        self._run = run

    @property
    def pid(self) -> int | None:
        """Known once it was started."""
        return self._run.pid

    @property
    def name(self) -> str:
        """What lists show."""
        return self._run.name

    def __iter__(self) -> Iterator[ProcessEvent]:
        return self

    def __next__(self) -> ProcessEvent:
        """The next event. Raises as the asynchronous client's."""
        event: ProcessEvent = self._portal.call(self._next())
        if event is _END:
            raise StopIteration
        return event

    async def _next(self) -> Any:
        return await anext(self._run, _END)

    def __str__(self) -> str:
        return str(self._run)

    def _repr_html_(self) -> str:
        return self._run._repr_html_()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self._run._repr_mimebundle_(include, exclude)

    def result(self, *, progress: bool | None = None) -> RunResult:
        """Read on to the end, dropping events. `progress`: show on the terminal or in the notebook how it goes, from two seconds on
        (None: if SYMPHONY_PROGRESS is set). Raises as iterating does.
        """
        return self._portal.call(self._run.result(progress=progress))

    def feed(self, data: bytes | str = b"", *, eof: bool = False) -> None:
        """Write to its standard input, and with `eof` close it; waits while it has too much unread. It must have been run with
        `stdin`.

        Raises:
            InvalidArgument: it was not started yet.
            BrokenPipe: it has no input, or has closed it.
            NoSuchProcess: it has ended.
        """
        self._portal.call(self._run.feed(data, eof=eof))

    def stop(self) -> None:
        """Hold its code and its calls until `cont`."""
        self._portal.call(self._run.stop())

    def cont(self) -> None:
        """Let it go on."""
        self._portal.call(self._run.cont())

    def detach(self) -> int | None:
        """Let the program go on when this client leaves; gives its pid, None when it was not started."""
        return self._portal.do(lambda: self._run.detach())

    def close(self) -> None:
        """Stop reading; a program that still runs gets TERM, unless it was detached."""
        self._portal.call(self._run.aclose())
