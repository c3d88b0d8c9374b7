"""One MCP server for one principal (tools/mcp_session.py).

    asleep --a call--> starting --listed--> awake --idle_s without a call, or it died--> asleep
                          \\-- failed: later calls are refused for a while that doubles

A principal never shares a server's process or session with another: what it left there is its own. A server that died, hung twice
or flooded is ended, and started again by the next call after the while.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import mcp_types
from mcp import Client, MCPError
from mcp.shared.exceptions import NoBackChannelError

from vllm_symphony.errors import BrokenPipe, SymphonyError, TimedOut, WouldBlock
from vllm_symphony.tools import mcp_http
from vllm_symphony.tools.config import McpServer
from vllm_symphony.tools.dial import Resolve
from vllm_symphony.tools.driver import Transient
from vllm_symphony.tools.mcp_stdio import StdioServer, Streams
from vllm_symphony.tools.secret import Vault

FIRST_REST_S, MAX_REST_S = 0.5, 60.0
MAX_TOOLS, MAX_PAGES = 512, 32
LIST_EVERY_S = 1.0  # at most, when it says that its tools have changed
MAX_LATE = 2  # calls in a row that ran out of time: it hangs

log = logging.getLogger(__name__)


class McpSession:
    """Owns the connection's task while there is one."""

    def __init__(
        self,
        server: McpServer,
        principal: str,
        slot: int,
        vault: Vault,
        tls: ssl.SSLContext,
        resolve: Resolve,
        listed: Callable[[Sequence[mcp_types.Tool]], None],
    ) -> None:
        """`listed` hears what tools it has, whenever that was asked."""
        self._server, self._principal, self._slot = server, principal, slot
        self._vault, self._tls, self._resolve = vault, tls, resolve
        self._listed = listed
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Client] | None = None
        self._stop, self._changed = asyncio.Event(), asyncio.Event()
        self._process: StdioServer | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._failure: SymphonyError | None = None
        self._num_failures = self._num_late = 0
        self._rests_until_s = 0.0
        self.num_calls = 0  # in flight
        self.used_s = 0.0

    @property
    def is_awake(self) -> bool:
        return self._task is not None

    @property
    def _is_leaving(self) -> bool:
        return self._stop.is_set() or (self._process is not None and self._process.ended.is_set())

    @property
    def os_pid(self) -> int | None:
        """Of its launcher, while it runs."""
        return self._process.pid if self._process is not None and self.is_awake else None

    async def call(self, name: str, arguments: dict[str, object], deadline_s: float) -> mcp_types.CallToolResult:
        """Raises SymphonyError, Transient, MCPError (the server's own word)."""
        self.num_calls += 1
        try:
            client = await self._client()
            result = await client.call_tool(name, arguments)
        except MCPError as e:
            is_forgotten = self._process is None and e.code == mcp_types.INVALID_REQUEST and "Session terminated" in str(e)
            if e.code != mcp_types.CONNECTION_CLOSED and not is_forgotten:
                self._num_late = 0
                raise
            raise Transient(await self._gone()) from e
        except NoBackChannelError as e:
            raise Transient(await self._gone()) from e
        except asyncio.CancelledError:
            self._note_late(deadline_s)
            raise
        finally:
            self.num_calls -= 1
            self._rest_when_idle()
        self._num_failures = self._num_late = 0
        return result

    async def wake(self) -> None:
        """Start it, and list its tools. Raises SymphonyError, Transient."""
        await self._client()
        self._rest_when_idle()

    async def close(self) -> None:
        """End the server; waits for it. The next call starts it again."""
        task = self._task
        self._stop.set()
        if self._idle is not None:
            self._idle.cancel()
        if task is not None:
            await asyncio.wait((task,))

    async def _client(self) -> Client:
        loop = asyncio.get_running_loop()
        while self._task is not None and self._is_leaving:
            await asyncio.wait((self._task,))
        if self._task is None:
            rest_s = self._rests_until_s - loop.time()
            if rest_s > 0:
                why = f": {self._failure.message}" if self._failure is not None else ""
                raise Transient(
                    BrokenPipe(f"the MCP server {self._server.name} rests{why}", retry_after_s=round(rest_s, 3)), rest_s
                )
            self._stop.clear()
            self._changed.clear()
            self._ready = loop.create_future()
            self._ready.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody may be waiting
            self._task = loop.create_task(self._live(self._ready))
        if self._idle is not None:
            self._idle.cancel()
        self.used_s = loop.time()
        assert self._ready is not None
        return await asyncio.shield(self._ready)

    async def _live(self, ready: asyncio.Future[Client]) -> None:
        """From its start to its end."""
        error: BaseException | None = None
        try:
            async with asyncio.timeout(self._server.start_timeout_s) as start:
                async with (
                    self._transport() as streams,
                    Client(_Given(streams), cache=None, message_handler=self._hear) as client,
                ):
                    self._listed(await _tools(client))
                    start.reschedule(None)
                    ready.set_result(client)
                    while await self._has_other_tools():
                        self._listed(await _tools(client))
        except TimeoutError:
            error = TimedOut(f"the MCP server {self._server.name} was not ready in {self._server.start_timeout_s:g} s")
        except asyncio.CancelledError:
            error = BrokenPipe(f"the MCP server {self._server.name} was stopped")
        except Exception as e:  # noqa: BLE001  whatever the package or the server does ends here
            error = e
        finally:
            self._task = None
            self._settle(ready, error)

    def _settle(self, ready: asyncio.Future[Client], error: BaseException | None) -> None:
        """Say why it ended, and how long it rests."""
        cause = self._process.cause if self._process is not None else ""
        self._process = None
        if error is None and (self._stop.is_set() and not cause):
            return
        self._failure = self._told(error, cause)
        self._num_failures += 1
        rest_s = min(FIRST_REST_S * 2 ** (self._num_failures - 1), MAX_REST_S)
        self._rests_until_s = asyncio.get_running_loop().time() + rest_s
        log.warning("%s (for %s)", self._vault.scrub(self._failure.message), self._principal or "the list of tools")
        if not ready.done():
            ready.set_exception(Transient(self._failure, rest_s))

    def _told(self, error: BaseException | None, cause: str) -> SymphonyError:
        name = self._server.name
        if cause:
            return BrokenPipe(f"the MCP server {name} {cause}")
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, SymphonyError):
            return error
        return BrokenPipe(f"the MCP server {name} failed: {type(error).__name__}: {str(error)[:300]}")

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Streams]:
        inner: AbstractAsyncContextManager[Streams]
        if self._server.command:
            self._process = StdioServer(self._server, self._vault.variables(self._server.name, self._principal), self._slot)
            inner = self._process.connected()
        else:
            inner = mcp_http.connected(self._server, self._principal, self._vault, self._tls, self._resolve)
        async with inner as streams:
            yield streams

    async def _hear(self, message: object) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification):
            self._changed.set()

    async def _has_other_tools(self) -> bool:
        """Wait until it says so; False when it shall stop, or its process has ended."""
        ends = [self._stop] if self._process is None else [self._stop, self._process.ended]
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, *ends)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if any(event.is_set() for event in ends):
                return False
            await asyncio.wait(waits[1:], timeout=LIST_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._changed.clear()
        return not any(event.is_set() for event in ends)

    async def _gone(self) -> SymphonyError:
        """The connection closed under a call: why."""
        if self._task is not None:
            self._stop.set()
            await asyncio.wait((self._task,))
        return self._failure or BrokenPipe(f"the MCP server {self._server.name} closed the connection")

    def _note_late(self, deadline_s: float) -> None:
        if asyncio.get_running_loop().time() >= deadline_s - 0.001:
            self._num_late += 1
            if self._num_late >= MAX_LATE and self._task is not None:
                self._num_late = 0
                if self._process is not None:
                    self._process.cause = f"did not answer {MAX_LATE} calls in a row"
                self._stop.set()

    def _rest_when_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if not self.num_calls and self._task is not None:
            self._idle = asyncio.get_running_loop().call_later(self._server.idle_s, self._stop.set)


class _Given:
    """A transport that is open already."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def __aenter__(self) -> Streams:
        return self._streams

    async def __aexit__(self, *exc: object) -> None: ...


async def _tools(client: Client) -> list[mcp_types.Tool]:
    """All pages; raises WouldBlock for a server that never ends its list."""
    found: list[mcp_types.Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor or len(found) >= MAX_TOOLS:
            return found[:MAX_TOOLS]
    raise WouldBlock(f"its list of tools has more than {MAX_PAGES} pages", limit=MAX_PAGES)
