"""The door in front of vLLM's OpenAI server (web/door.py): who may ask for more than plain OpenAI.

    no token of ours                    -> vLLM, as it came; what is ours answers 401
    Authorization: Bearer sym_...       -> a principal: unknown, revoked, expired is 401 on every route
        POST chat, completions, responses
            model="lip:owner/name"      -> lip_model.py: a program runs as if it were a model
            symphony={"file": ...}      -> prefix.py, then vLLM
        GET /v1/models                  -> vLLM, and the programs that may be run (models.py)
        /symphony/...                   -> our routes; `edge.credentials.caller` says who it is
            else                        -> vLLM, with its own key where it has one
    a client certificate (connection.py) and no token: its common name is the principal

The outermost middleware, and pure ASGI: it holds neither requests nor answers. The body of those three POSTs is read before vLLM
reads it and handed on as it came; it is parsed only where the bytes of our words stand in it. What is ours also asks whose page it
comes from (site.py). Fail closed: a token in another header is refused as on the gRPC door.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.credentials import CALLER, SHOWN, caller
from vllm_symphony.edge.deed import DENIED
from vllm_symphony.edge.guard import limit_of_token
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.meter import DOORS
from vllm_symphony.edge.rate import Rates
from vllm_symphony.edge.token import holds_token
from vllm_symphony.errors import SymphonyError, Unauthenticated
from vllm_symphony.web import lip_model, models, prefix
from vllm_symphony.web.answer import Answer
from vllm_symphony.web.connection import NAME
from vllm_symphony.web.site import Site

OURS = "/symphony"
OPEN = (f"{OURS}/static/",)  # and the page itself: they show nothing of anybody
_MODEL, _FIELD = b'"lip:', b'"symphony"'
_HOW = "send a Symphony token as the API key (`symphony token add` makes one)"


class Door:
    """Middleware of one server. `api_key`: vLLM's own, where it has one; `hosts`: names of this server."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        link: KernelLink,
        identity: Identity,
        hosts: Iterable[str] = (),
        api_key: str | None = None,
        rates: Rates | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._app = app
        self._link = link
        self._identity = identity
        self._site = Site(hosts)
        self._api_key = api_key
        self._rates = rates or Rates()
        self._audit = audit or Audit(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope; websockets and the lifespan pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        shown = _Shown(scope)
        answer = Answer(send)
        visit = _Visit(scope, receive, answer, shown)
        if not (shown.proves or _is_ours(scope) or (_may_be_ours(scope) and await visit.asked() is not None)):
            await self._app(scope, visit.receive, send)
            return
        try:
            await self._known(visit)
        except SymphonyError as e:
            self._refused(scope, shown, e)
            await answer.fail(e)

    def _refused(self, scope: Scope, shown: _Shown, error: SymphonyError) -> None:
        """Count and record what was denied."""
        if isinstance(error, Unauthenticated):
            DOORS.refused.add("http", "token")
        elif error.values.get("header") in ("Host", "Origin"):
            DOORS.refused.add("http", str(error.values["header"]).lower())
        if error.reason in DENIED:
            who, token, peer = CALLER.get(), SHOWN.get(), shown.peer().partition(":")[2]
            name = who.principal if who else "-"
            self._audit.write(
                principal=name, door="http", action=scope["method"], target=_path(scope), outcome=error.reason,
                bounded=name if who else peer.rpartition(":")[0], token=token.id if token else None, peer=peer,
            )  # fmt: skip

    async def _known(self, visit: _Visit) -> None:
        """Find out who it is, for as long as the request lasts."""
        if not visit.shown.proves:
            await self._plain(visit)
            return
        async with self._identity.known("http", visit.shown):
            cred = caller(visit.shown)
            with self._rates.within(cred.principal, token=limit_of_token()):
                await self._served(visit, cred)

    async def _plain(self, visit: _Visit) -> None:
        """Nobody of ours: the page is for everybody, and shows nothing of anybody."""
        if not _is_ours(visit.scope):
            raise Unauthenticated(f"programs and files are for principals: {_HOW}")
        self._demand_site(visit)
        if not _is_open(visit.scope):
            raise Unauthenticated(f"who are you? {_HOW}")
        await self._app(visit.scope, visit.receive, visit.answer.send)

    async def _served(self, visit: _Visit, cred: Credentials) -> None:
        scope = visit.scope
        if _is_ours(scope):
            self._demand_site(visit)
            await self._app(scope, visit.receive, visit.answer.send)
            return
        if self._api_key is not None:
            scope = {**scope, "headers": _with_key(scope["headers"], self._api_key)}
        asked = await visit.asked() if _may_be_ours(scope) else None
        if asked is not None:
            self._demand_site(visit)
            if isinstance(asked.get("model"), str) and asked["model"].startswith(lip_model.MARK):
                form = lip_model.FORMS[_path(scope)]
                trace = visit.shown.header("traceparent") or ""
                await lip_model.serve(self._link, self._audit, cred, form, asked, visit.receive, visit.answer, trace)
                return
            with await prefix.of_request(self._link, cred, asked):
                await self._app(scope, visit.receive, visit.answer.send)
        elif scope["method"] == "GET" and _path(scope) == models.PATH:
            await models.serve(self._app, self._link, cred, scope, visit.receive, visit.answer.send)
        else:
            await self._app(scope, visit.receive, visit.answer.send)

    def _demand_site(self, visit: _Visit) -> None:
        server = visit.scope.get("server")
        self._site.demand_own(visit.shown.header("host") or "", visit.shown.header("origin"), server[0] if server else None)


class _Visit:
    """One request: what it shows, its body once it was looked at, and its answer."""

    def __init__(self, scope: Scope, receive: Receive, answer: Answer, shown: _Shown) -> None:
        self.scope = scope
        self.answer = answer
        self.shown = shown
        self._receive = receive
        self._read: list[Message] = []
        self._body = b""

    async def receive(self) -> Message:
        """What was read already, as it came, then what comes."""
        return self._read.pop(0) if self._read else await self._receive()

    async def asked(self) -> dict[str, Any] | None:
        """The body where it asks for something of ours; None where it is vLLM's to answer, right or wrong."""
        await self._look()
        if _MODEL not in self._body and _FIELD not in self._body:
            return None
        try:
            body = json.loads(self._body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(body, dict):
            return None
        model = body.get("model")
        return body if "symphony" in body or (isinstance(model, str) and model.startswith(lip_model.MARK)) else None

    async def _look(self) -> None:
        """Read the body, once."""
        more = not self._read
        while more:
            message = await self._receive()
            self._read.append(message)
            more = message["type"] == "http.request" and message.get("more_body", False)
        pieces = [message.get("body", b"") for message in self._read]
        self._body = pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Shown:
    """A request's headers, as `Identity` reads them."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.has_token = False
        for _, value in scope["headers"]:  # of every request, so no more is done than must be
            if b"sym_" in value and holds_token(value.decode("latin-1")):
                self.has_token = True
        self.common_name: str | None = scope.get("extensions", {}).get(NAME, {}).get("name")
        self.proves = self.has_token or self.common_name is not None

    def header(self, name: str) -> str | None:
        """The first of that name."""
        wanted = name.encode()
        return next((value.decode("latin-1") for key, value in self._scope["headers"] if key == wanted), None)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """All of them: with a token among them, each has to be in its place."""
        return tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in self._scope["headers"])

    def peer(self) -> str:
        client = self._scope.get("client")
        return f"http:{client[0]}:{client[1]}" if client else "http:"

    def auth_context(self) -> dict[str, Any]:
        return {} if self.common_name is None else {"x509_common_name": [self.common_name.encode()]}


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _is_ours(scope: Scope) -> bool:
    path = _path(scope)
    return path == OURS or path.startswith(f"{OURS}/")


def _is_open(scope: Scope) -> bool:
    path = _path(scope)
    return path.rstrip("/") == OURS or path.startswith(OPEN)


def _may_be_ours(scope: Scope) -> bool:
    return scope["method"] == "POST" and _path(scope) in lip_model.FORMS


def _with_key(headers: Iterable[tuple[bytes, bytes]], api_key: str) -> list[tuple[bytes, bytes]]:
    """The headers with vLLM's own key in place of ours, which vLLM never sees."""
    kept = [(key, value) for key, value in headers if key != b"authorization"]
    return [*kept, (b"authorization", f"Bearer {api_key}".encode())]
