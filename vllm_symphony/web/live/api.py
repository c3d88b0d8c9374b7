"""What the page asks (web/live/api.py): the kernel's own calls, for the caller, as JSON.

    GET  ps  files?path=&name=&limit=  capacity  info  why/PID  logs/PID?from_seq=        once
    GET  stream  logs/PID?follow=1                                                         server-sent events (stream.py)
    POST kill {"pid": 7, "signal": "TERM"}

All below /symphony/api/. The door in front says who calls; without it there is no caller, and the answer is 401. Errors have the
form of OpenAI's API, with the status of errors.py.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vllm_symphony.abi.calls import Attach, Kill, NoArgs, PidArgs, Ps
from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.deed import CONTROL
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.errors import InvalidArgument, SymphonyError, WouldBlock
from vllm_symphony.web.error import error_response
from vllm_symphony.web.live import page
from vllm_symphony.web.live.glance import Glances, files_of, info_of, process_shown, processes_shown
from vllm_symphony.web.live.record import Record
from vllm_symphony.web.live.stream import MachineStream, OutputStream, output_line

MAX_FILES = 500
MAX_BODY_BYTES = 4096
MAX_LINES = 1000  # of a process's output in one answer
MAX_NUMBER = 2**53 - 1

_ACTIONS = {"logs": "attach", "stream": "strace"}  # questions whose system call has another name

Ask = Callable[["Live", Request, Credentials], Awaitable[Any]]


def routes() -> list[BaseRoute]:
    """All of the page and its API, with their whole paths: for the application's own router."""
    live = Live()
    asks: dict[str, Ask] = {
        "ps": _ps, "files": _files, "capacity": _capacity, "info": _info, "why/{pid}": _why, "logs/{pid}": _logs, "stream": _stream,
    }  # fmt: skip
    api = [Route(f"{page.PREFIX}/api/{path}", live.answering(ask, path), methods=["GET"]) for path, ask in asks.items()]
    return [*page.routes(), *api, Route(f"{page.PREFIX}/api/kill", live.answering(_kill, "kill"), methods=["POST"])]


class Live:
    """The API of one application."""

    def __init__(self) -> None:
        self._glances: Glances | None = None
        self._record: Record | None = None

    def answering(self, ask: Ask, path: str) -> Callable[[Request], Awaitable[Any]]:
        """An endpoint: finds out who calls, and makes JSON of the result or of the error."""
        name = path.partition("/")[0]
        action = _ACTIONS.get(name, name)

        async def endpoint(request: Request) -> Any:
            try:
                told = await self._recorded(ask, request, caller(request), action)
            except SymphonyError as e:
                response = error_response(e)
            else:
                response = told if callable(told) else JSONResponse(told)
            if isinstance(response, Response):
                response.headers.update({**page.GUARDS, "Cache-Control": "no-store"})
            return response

        return endpoint

    async def _recorded(self, ask: Ask, request: Request, cred: Credentials, action: str) -> Any:
        """The answer, and a line of the audit log where it is worth one. `_kill` writes itself: its target stands in the body."""
        if action in CONTROL:
            return await ask(self, request, cred)
        target = request.path_params.get("pid") or request.query_params.get("path") or "all"
        with self.record(request).of(request, cred, action, target):
            return await ask(self, request, cred)

    def record(self, request: Request) -> Record:
        """Where the application keeps its audit log; without one nothing is written."""
        if self._record is None:
            web = getattr(request.app.state, "symphony", None)
            self._record = Record(getattr(web, "audit", None) or Audit(None))
        return self._record

    def glances(self, request: Request) -> Glances:
        """Those of the application's kernel."""
        if self._glances is None:
            self._glances = Glances(link_of(request))
        return self._glances


def link_of(request: Request) -> KernelLink:
    """The application's way to the kernel. Raises WouldBlock before there is one."""
    web = getattr(request.app.state, "symphony", None)
    if web is None:
        raise WouldBlock("the server is starting", retry_after_s=1.0)
    link: KernelLink = web.link
    return link


async def _ps(live: Live, request: Request, cred: Credentials) -> dict[str, Any]:
    return processes_shown((await link_of(request).call("ps", Ps(), cred)).processes)


async def _files(live: Live, request: Request, cred: Credentials) -> dict[str, Any]:
    asked = request.query_params
    limit = _number(asked.get("limit", "200"), "limit", MAX_FILES)
    return await files_of(link_of(request), cred, asked.get("path") or "/", asked.get("name", ""), limit)


async def _capacity(live: Live, request: Request, cred: Credentials) -> dict[str, Any]:
    return asdict((await link_of(request).call("statfs", NoArgs(), cred)).fs)


async def _info(live: Live, request: Request, cred: Credentials) -> dict[str, Any]:
    """The server, and who is asking."""
    link = link_of(request)
    model = (await link.call("model_info", NoArgs(), cred)).model
    return {
        "principal": cred.principal,
        "scopes": cred.scopes,
        "model": {"name": model.name, "max_positions": model.max_positions, "page_size": model.page_size},
        "server": await info_of(link, cred),
    }


async def _why(live: Live, request: Request, cred: Credentials) -> dict[str, Any]:
    why = await link_of(request).call("why", PidArgs(_pid(request)), cred)
    return {"process": process_shown(why.process), "threads": [asdict(t) for t in why.threads]}


async def _logs(live: Live, request: Request, cred: Credentials) -> Any:
    """What a process printed, from `from_seq` on: the last lines of it, or with `follow` all as it comes."""
    link, pid = link_of(request), _pid(request)
    from_seq = _number(request.query_params.get("from_seq", "1"), "from_seq", MAX_NUMBER)
    await link.call("ps", Ps(pid), cred)  # an answer without a body yet can still say that there is no such process
    if request.query_params.get("follow", "0") not in ("", "0"):
        return OutputStream(link, cred, pid, from_seq, _stopping(request))
    lines: list[dict[str, Any]] = []
    async with aclosing(link.stream("attach", Attach(pid, from_seq, follow=False), cred)) as parts:
        async for part in parts:
            lines = [*lines, *(output_line(e) for e in part.events)][-MAX_LINES:]
    return {"events": lines}


async def _stream(live: Live, request: Request, cred: Credentials) -> Any:
    link = link_of(request)
    link.check()
    return MachineStream(link, live.glances(request), cred, _stopping(request))


async def _kill(live: Live, request: Request, cred: Credentials) -> dict[str, Any]:
    asked = await _body(request)
    pid, signal = asked.get("pid"), asked.get("signal", "TERM")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= MAX_NUMBER or not isinstance(signal, str):
        raise InvalidArgument('the body must be like {"pid": 7, "signal": "TERM"}', param="pid")
    with live.record(request).of(request, cred, "kill", str(pid)):
        await link_of(request).call("kill", Kill(pid, signal), cred)
    return {"pid": pid, "signal": signal}


async def _body(request: Request) -> dict[str, Any]:
    """A small JSON object. Raises InvalidArgument."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise InvalidArgument(f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise InvalidArgument("the body is no JSON object")
    return asked


def _pid(request: Request) -> int:
    return _number(request.path_params["pid"], "pid", MAX_NUMBER)


def _number(text: str, name: str, most: int) -> int:
    """Raises InvalidArgument when it is none from 1 to `most`."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and 0 < int(text) <= most):
        raise InvalidArgument(f"{name} must be a number from 1 to {most}, not {text[:40]!r}", param=name)
    return int(text)


def _stopping(request: Request) -> Callable[[], bool]:
    """Whether the HTTP server stops: it would wait for streams for ever."""
    server = getattr(request.app.state, "server", None)
    return lambda: bool(getattr(server, "should_exit", False))
