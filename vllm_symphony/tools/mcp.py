"""Tools of MCP servers (tools/mcp.py).

    [mcp.notes]  search, add  -->  notes_search, notes_add          asked once at the start, then by each principal's own session
    call --(principal, server)--> McpSession --> result: texts, and structured content as JSON

What a server says of its tools is shown to models and checked by nobody: names, descriptions and schemas are bounded, and whether a
tool may be called twice is the operator's word (`idempotent`), not the server's hint.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import mcp_types
from mcp import MCPError

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import ToolInfo
from vllm_symphony.errors import InvalidArgument, SymphonyError, WouldBlock
from vllm_symphony.tools.config import Config, McpServer
from vllm_symphony.tools.dial import Resolve, system_resolve
from vllm_symphony.tools.driver import Call, Tool, Transient, cut
from vllm_symphony.tools.mcp_session import McpSession
from vllm_symphony.tools.schema import shallow
from vllm_symphony.tools.secret import Vault

MAX_DESCRIPTION = 4096
MAX_NAME = 128
EVERYBODY = ""  # whose list is asked at the start

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A tool as a server told it; `own_name` is what the server calls it."""

    info: ToolInfo
    schema: Mapping[str, Any]
    own_name: str


class McpDriver:
    """All tables [mcp.*]."""

    def __init__(self, config: Config, vault: Vault, tls: ssl.SSLContext, resolve: Resolve = system_resolve) -> None:
        self._servers = config.mcp
        self._vault, self._tls, self._resolve = vault, tls, resolve
        self._max_awake = config.max_servers
        self._sessions: dict[tuple[str, str], McpSession] = {}
        self._lists: dict[tuple[str, str], dict[str, _Listed]] = {}
        self._changed: Callable[[str], None] = lambda _: None

    async def start(self, changed: Callable[[str], None]) -> None:
        """Ask each server once what it has; one that does not answer has nothing yet."""
        self._changed = changed

        async def ask(server: McpServer) -> None:
            try:
                await self._session(server, EVERYBODY).wake()
            except (SymphonyError, Transient):
                return  # it was logged
            await self._session(server, EVERYBODY).close()

        await asyncio.gather(*map(ask, self._servers))

    def tools(self, principal: str) -> Sequence[Tool]:
        return [self._bound(server, principal, one) for server in self._servers for one in self._list(server, principal).values()]

    async def find(self, principal: str, name: str) -> Tool | None:
        for server in self._servers:
            if not name.startswith(server.prefix):
                continue
            listed = self._list(server, principal).get(name)
            if listed is None and (server.name, principal) not in self._lists:
                await self._wake(server, principal)
                listed = self._list(server, principal).get(name)
            if listed is not None:
                return self._bound(server, principal, listed)
        return None

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    def awake(self) -> list[tuple[str, str, int | None]]:
        """Sessions that are open: server, principal, pid of the process's launcher."""
        return [(s, p, session.os_pid) for (s, p), session in self._sessions.items() if session.is_awake]

    def _list(self, server: McpServer, principal: str) -> dict[str, _Listed]:
        own = self._lists.get((server.name, principal))
        return own if own is not None else self._lists.get((server.name, EVERYBODY), {})

    async def _wake(self, server: McpServer, principal: str) -> None:
        session = self._session(server, principal)
        if not session.is_awake:
            await self._make_room()
        try:
            await session.wake()
        except Transient as failure:
            raise failure.error() from None

    def _bound(self, server: McpServer, principal: str, listed: _Listed) -> Tool:
        """The tool, for this principal's own session."""
        return Tool(listed.info, listed.schema, server.bounds, partial(self._run, server, principal, listed.own_name))

    async def _run(self, server: McpServer, principal: str, own_name: str, call: Call) -> ToolResult:
        session = self._session(server, principal)
        if not session.is_awake:
            await self._make_room()
        try:
            return self._result(server, await session.call(own_name, dict(call.arguments), call.deadline_s))
        except MCPError as e:
            content, is_cut = cut(self._vault.scrub(f"{e.code}: {e}"), server.bounds.max_result_bytes)
            return ToolResult(content, is_error=True, truncated=is_cut)

    def _session(self, server: McpServer, principal: str) -> McpSession:
        key = server.name, principal
        session = self._sessions.get(key)
        if session is None:
            listed = partial(self._note, server, principal)
            slot = len(self._sessions)
            session = McpSession(server, principal, slot, self._vault, self._tls, self._resolve, listed)
            self._sessions[key] = session
        return session

    async def _make_room(self) -> None:
        """End the server that was not used for the longest time, when too many are awake. Raises WouldBlock when all work."""
        awake = [session for session in self._sessions.values() if session.is_awake]
        if len(awake) >= self._max_awake:
            idle = min((s for s in awake if not s.num_calls), key=lambda s: s.used_s, default=None)
            if idle is None:
                raise WouldBlock(f"{len(awake)} MCP servers work, the most at once", limit=self._max_awake)
            await idle.close()

    def _note(self, server: McpServer, principal: str, found: Sequence[mcp_types.Tool]) -> None:
        """A server's list, as this principal sees it."""
        tools: dict[str, _Listed] = {}
        for entry in found:
            if not any(fnmatchcase(entry.name, glob) for glob in server.tools):
                continue
            try:
                listed = _described(server, entry)
            except (InvalidArgument, RecursionError) as e:
                log.warning("the MCP server %s has a tool that is left out: %s", server.name, str(e)[:300])
                continue
            tools.setdefault(listed.info.name, listed)
        self._lists[server.name, principal] = tools
        self._changed(principal)

    def _result(self, server: McpServer, result: mcp_types.CallToolResult) -> ToolResult:
        limit = server.bounds.max_result_bytes
        content, is_cut = cut(self._vault.scrub("\n".join(map(_words, result.content))), limit)
        structured = None
        if result.structured_content is not None:
            structured = json.dumps(self._vault.scrub_json(result.structured_content), ensure_ascii=False)
            if len(structured.encode(errors="replace")) > limit:
                structured, is_cut = None, True
        return ToolResult(content, json=structured, is_error=bool(result.is_error), truncated=is_cut)


def _described(server: McpServer, entry: mcp_types.Tool) -> _Listed:
    """Raises InvalidArgument for a schema that we cannot check."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", server.prefix + entry.name)
    if len(name) > MAX_NAME:
        raise InvalidArgument(f"a name of {len(name)} characters, the most is {MAX_NAME}: {name[:64]}...", limit=MAX_NAME)
    schema: dict[str, Any] = dict(entry.input_schema)
    checked = shallow(schema)
    idempotent = any(fnmatchcase(entry.name, glob) for glob in server.idempotent)
    info = ToolInfo(name, (entry.description or "")[:MAX_DESCRIPTION], json.dumps(schema), idempotent, "mcp")
    return _Listed(info, checked, entry.name)


def _words(block: mcp_types.ContentBlock) -> str:
    """A part of a result as text."""
    match block:
        case mcp_types.TextContent():
            return block.text
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return f"({block.type}, {block.mime_type}, {len(block.data) * 3 // 4} bytes)"
        case mcp_types.EmbeddedResource():
            inner = block.resource
            return inner.text if isinstance(inner, mcp_types.TextResourceContents) else f"(resource {inner.uri}, no text)"
        case mcp_types.ResourceLink():
            return f"(resource {block.uri})"
    return f"({block.type})"
