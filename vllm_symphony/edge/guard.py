"""What a door asks beside who it is: how fast, and whether it is recorded (edge/guard.py).

    access log [ errors [ ABI [ recorded [ identity [ admitted [ the RPC ] ] ] ] ] ]

`recorded` writes how an RPC ended that is worth a line, or was denied before anybody knew who called. `admitted` counts it, and
writes before it is done what takes long, and with --audit-required everything that will be written. Calls of a session are recorded
as RPCs are, and wait for their turn where RPCs are refused: the client sees back-pressure, as a program does that calls too fast.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.credentials import CALLER, SHOWN
from vllm_symphony.edge.deed import CONTROL, DENIED, LOOKS, Told, action_of, outcome_of, runtime_of, target_of
from vllm_symphony.edge.interceptor import REQUEST
from vllm_symphony.edge.meter import DOORS
from vllm_symphony.edge.rate import Limit, Rates, limits_of
from vllm_symphony.errors import QuotaExceeded, Unauthenticated

_LONG = frozenset({"run", "export", "import"})  # written when they begin, too
_TARGET: ContextVar[str | None] = ContextVar("TARGET", default=None)


def about(target: str) -> None:
    """What this RPC is about, where its request alone does not tell."""
    _TARGET.set(target)


@dataclass(frozen=True, slots=True)
class Rules:
    """What `symphony serve` was told, as words: they go on to each process that has a door."""

    rates: tuple[str, ...] = ()  # NAME=20/s:40
    calls: tuple[str, ...] = ()  # NAME=8
    audit_required: bool = False
    hosts: tuple[str, ...] = ()  # names of this server, for browsers

    def limits(self) -> dict[str, Limit]:
        """Raises InvalidArgument for what is no limit."""
        return limits_of(self.rates, self.calls)

    def guard(self, state_dir: Path | None, door: str) -> Guard:
        """For one door, `grpc` or `http`. Raises as `limits`."""
        rates = Rates(self.limits(), refused=lambda: DOORS.refused.add(door, "rate"))
        return Guard(rates, Audit(state_dir, required=self.audit_required))

    def text(self) -> str:
        """For another process of this server."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Rules:
        """What `text` wrote."""
        said = json.loads(text)
        return cls(tuple(said["rates"]), tuple(said["calls"]), said["audit_required"], tuple(said["hosts"]))

    def words(self) -> tuple[str, ...]:
        """The flags again."""
        words = tuple(w for rate in self.rates for w in ("--rate-limit", rate))
        words += tuple(w for call in self.calls for w in ("--call-limit", call))
        words += tuple(w for host in self.hosts for w in ("--allowed-host", host))
        return (*words, "--audit-required") if self.audit_required else words


@dataclass(slots=True)
class Guard:
    """Of one door."""

    rates: Rates = field(default_factory=Rates)
    audit: Audit = field(default_factory=lambda: Audit(None))

    @asynccontextmanager
    async def recorded(self, method: str, context: Any) -> AsyncIterator[None]:
        """A concern: how it ended is written, where that is worth a line."""
        began, error = time.monotonic(), None
        try:
            yield
        except BaseException as e:
            error = e
            if isinstance(e, Unauthenticated):
                DOORS.refused.add("grpc", "token")
            raise
        finally:
            action, outcome = _action(method), outcome_of(error)
            if action in CONTROL or outcome in DENIED:
                took_ms = round((time.monotonic() - began) * 1e3, 1)
                self.audit.write(outcome=outcome, **_line(context, action, _target(), outcome, ms=took_ms))

    @asynccontextmanager
    async def admitted(self, method: str, context: Any) -> AsyncIterator[None]:
        """A concern, inside identity: it is not too fast, and written before it is done where that must or had better be.

        Raises QuotaExceeded: the principal asks too fast, or too much at once; WouldBlock: it cannot be recorded.
        """
        who = CALLER.get()
        assert who is not None
        with self.rates.within(who.principal, token=limit_of_token()):
            action = _action(method)
            if action in LOOKS and who.is_admin:
                self.audit.write(outcome="begun", **_line(context, action, _target() or "all"))
            elif action in CONTROL and self.audit.required:
                self.audit.demand(**_line(context, action, _target()))
            elif action in _LONG:
                self.audit.write(outcome="begun", **_line(context, action, _target()))
            yield

    async def turn(self, who: Credentials) -> None:
        """Until one more call of a session may be made."""
        while True:
            try:
                return self.rates.admit(who.principal, token=limit_of_token())
            except QuotaExceeded as e:
                await asyncio.sleep(e.retry_after_s or 0.0)

    def told(self, context: Any) -> Told:
        """For the calls of a session."""

        def write(action: str, target: str, outcome: str, runtime: str | None) -> None:
            self.audit.write(outcome=outcome, **_line(context, action, target, outcome, runtime=runtime))

        return Told(write)

    def begin(self, context: Any, op: str, args: Any) -> None:
        """Where audit is required: a call of a session is about to be made. Raises WouldBlock when that cannot be written."""
        if self.audit.required and op in CONTROL:
            self.audit.demand(**_line(context, op, target_of(args), runtime=runtime_of(args)))


def _line(context: Any, action: str, target: str, outcome: str = "begun", **more: Any) -> dict[str, Any]:
    """What the audit log says of this RPC, but for how it ended."""
    who, token, peer, request = CALLER.get(), SHOWN.get(), str(context.peer()), REQUEST.get()
    door = "unix" if peer.startswith("unix:") else "tcp"
    where = None if door == "unix" else unquote(peer).partition(":")[2]
    name = who.principal if who else "-"
    line = {
        "principal": name,
        "door": door,
        "action": action,
        "target": target,
        "token": token.id if token else None,
        "peer": where,
        "request_id": getattr(request, "request_id", None) or None,
        "runtime": runtime_of(_asked(request)),
        **more,
    }
    if action in LOOKS:
        return {**line, "bounded": f"{action} {target} by {name}"}
    if outcome in DENIED:
        return {**line, "bounded": name if who else (where or "").rpartition(":")[0]}
    return line


def _action(method: str) -> str:
    """What an RPC does; `Call` is the system call that it carries."""
    request = REQUEST.get()
    if method.endswith(".SessionService/Call"):
        return (hasattr(request, "call") and request.call.WhichOneof("args")) or "call"
    return action_of(method)


def _target() -> str:
    return _TARGET.get() or target_of(_asked(REQUEST.get()))


def _asked(request: Any) -> Any:
    """What names the target: the request, or the program or the system call in it."""
    if hasattr(request, "call"):
        op = request.call.WhichOneof("args")
        return getattr(request.call, op) if op else None
    return getattr(request, "program", None) if hasattr(getattr(request, "program", None), "runtime") else request


def limit_of_token() -> tuple[str, Limit] | None:
    """The id and the limit of the token that this request showed, where it has one."""
    token = SHOWN.get()
    return (token.id, token.rate) if token and token.rate else None
