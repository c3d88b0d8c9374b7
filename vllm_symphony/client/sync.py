"""The client without asyncio (client/sync.py). Made by scripts/sync_client from client.py and run.py; never edited.

    with connect_sync() as symphony:
        for event in symphony.run("best_of_n.py", question="What is the capital of France?"):
            print(event.kind, event.text)

One event loop in a background thread for each client. Remote programs stay asynchronous: `run_here(main)` runs one.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, TypeVar

from vllm_symphony.abi.calls import StracePart, WhyResult
from vllm_symphony.abi.types import FileStat, ModelInfo, ProcessEvent, Signal
from vllm_symphony.client.channel import Tls
from vllm_symphony.client.client import Client, FileText, ServerInfo, connect
from vllm_symphony.client.display import FileList, ProcessList
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

    def run(self, program: str | os.PathLike[str] | Program, /, **args: Any) -> SyncRun:
        """Run a program (its path, its text or a `Program`) with these arguments; nothing happens before the first read."""
        return SyncRun(self._portal, self._portal.do(lambda: self._client.run(program, **args)))

    def spawn(self, program: str | os.PathLike[str] | Program, /, **args: Any) -> int:
        """Start a program that outlives this client; gives its pid."""
        return self._portal.call(self._client.spawn(program, **args))

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
        """Send TERM or KILL."""
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

    def ls(self, prefix: str = "/", *, timeout_s: float | None = None) -> FileList:
        """Named files whose path begins with `prefix`, by name."""
        return self._portal.call(self._client.ls(prefix, timeout_s=timeout_s))

    def stat(self, path: str, *, timeout_s: float | None = None) -> FileStat:
        """One file."""
        return self._portal.call(self._client.stat(path, timeout_s=timeout_s))

    def cat(
        self, path: str, *, offset: int = 0, count: int | None = None, text: bool = True, timeout_s: float | None = None
    ) -> FileText:
        """Tokens [offset, offset + count) of a file."""
        return self._portal.call(self._client.cat(path, offset=offset, count=count, text=text, timeout_s=timeout_s))

    def rm(self, path: str, *, timeout_s: float | None = None) -> None:
        """Take a name away."""
        self._portal.call(self._client.rm(path, timeout_s=timeout_s))

    def mv(self, old: str, new: str, *, timeout_s: float | None = None) -> None:
        """Give a file another name, replacing what has it."""
        self._portal.call(self._client.mv(old, new, timeout_s=timeout_s))

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

    def info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Versions, model, counters."""
        return self._portal.call(self._client.info(timeout_s=timeout_s))


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

    def detach(self) -> int | None:
        """Let the program go on when this client leaves; gives its pid, None when it was not started."""
        return self._portal.do(lambda: self._run.detach())

    def close(self) -> None:
        """Stop reading; a program that still runs gets TERM, unless it was detached."""
        self._portal.call(self._run.aclose())
