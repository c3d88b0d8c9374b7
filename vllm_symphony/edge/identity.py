"""Finding out who calls, and that it stays so (edge/identity.py).

    header `authorization: Bearer sym_...`   -> the token's principal          any door
    none                                      -> the server's own user          unix socket
                                              -> the certificate's common name  TLS with a client certificate
                                              -> UNAUTHENTICATED                else

Fail closed: a header that is wrong in any way is refused where none would do, and a token in another header too, because its owner
meant to be somebody. No message repeats what was shown. While an RPC of a token is open it is looked at again twice a second: one
whose token was revoked, or has expired, ends with UNAUTHENTICATED.

Scope `run` counts as far as programs are confined, which is known when the server is ready (`confined`): at level A for everybody
who has it, at B for the server's own user, below that for nobody. `--unconfined` lifts it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from vllm_symphony.abi.confinement import OWN_USER, STRANGERS, UNCONFINED
from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.credentials import CALLER, OWN, SHOWN
from vllm_symphony.edge.own_token import OwnToken
from vllm_symphony.edge.token import Token, holds_token, is_name, proves, split
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import NotOwner, SymphonyError, Unauthenticated, WouldBlock

WATCH_S = 0.5
NEEDS: Mapping[str, str] = {"/symphony.v1.ProcessService/Run": "run", "/symphony.v1.ProcessService/Spawn": "run"}
_HOW = "send the header `authorization: Bearer sym_...` (clients: SYMPHONY_TOKEN or --token-file)"
_ELSEWHERE = frozenset({"token", "x-token", "api-key", "x-api-key", "x-auth-token", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class _Caller:
    credentials: Credentials
    token: Token | None = None


class Identity:
    """Who may come in. Without a token file only the unix socket is a way in."""

    def __init__(
        self,
        tokens: TokenFile | None = None,
        own: OwnToken | None = None,
        *,
        unconfined: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.own = own
        self._tokens = tokens
        self._unconfined = unconfined
        self._clock = clock
        self._open: dict[asyncio.Timeout, Token] = {}  # the RPCs of tokens
        self._level, self._lacks = UNCONFINED, ""
        self._is_found = False  # how far programs are confined

    def confined(self, level: str, lacks: str = "") -> None:
        """How far programs are confined from now on, and what keeps it from being A."""
        self._level, self._lacks, self._is_found = level, lacks, True

    @asynccontextmanager
    async def known(self, method: str, context: Any) -> AsyncIterator[None]:
        """A concern (interceptor.py): the RPC has a caller that may make it, for as long as it lasts.

        Raises Unauthenticated; NotOwner when the caller lacks the scope; WouldBlock while the server starts.
        """
        who = self._authenticate(context)
        CALLER.set(self._confined(who.credentials))
        SHOWN.set(who.token)
        self._check_scope(method, who)
        if who.token is None:
            yield
            return
        try:
            async with asyncio.timeout(None) as limit:
                self._open[limit] = who.token
                try:
                    yield
                finally:
                    del self._open[limit]
        except TimeoutError:
            if not limit.expired():
                raise
            why = self._end_of(who.token) or "could not be checked for a moment"
            raise Unauthenticated(f"the token {who.token.name} {why}: the call ends") from None

    async def watch(self) -> None:
        """End open RPCs whose tokens are no longer good; runs as long as the server."""
        while True:
            await asyncio.sleep(WATCH_S)
            self.cut()

    def cut(self) -> None:
        """One look at all open RPCs of tokens."""
        for limit, token in list(self._open.items()):
            if self._end_of(token) and not limit.expired():
                limit.reschedule(0.0)

    def _authenticate(self, context: Any) -> _Caller:
        shown = []
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                shown.append(value)
            elif key in _ELSEWHERE or (isinstance(value, str) and holds_token(value)):
                raise Unauthenticated(
                    f"a token stands where none is read ({key if key in _ELSEWHERE else 'another header'}): {_HOW}"
                )
        if len(shown) > 1:
            raise Unauthenticated(f"{len(shown)} authorization headers: {_HOW}, once")
        if shown:
            return self._by_token(shown[0])
        if context.peer().startswith("unix:"):
            return _Caller(OWN)
        names = context.auth_context().get("x509_common_name", ())
        if len(names) != 1:
            raise Unauthenticated(f"who are you? {_HOW}; `symphony token add` at the server makes one")
        principal = names[0].decode(errors="replace")
        if not is_name(principal):
            raise Unauthenticated("the client certificate's common name is no name for a principal (letters, digits, ._@+-)")
        return _Caller(Credentials(principal))

    def _by_token(self, header: str) -> _Caller:
        kind, _, text = header.partition(" ")
        parts = split(text)
        if kind.lower() != "bearer" or parts is None:
            raise Unauthenticated(f"malformed or truncated token: {_HOW}")
        token_id, secret = parts
        token = self._find(token_id)
        if not proves(secret, token) or token is None:
            raise Unauthenticated("unknown or revoked token: `symphony token list` at the server shows which there are")
        if token.is_expired(self._clock()):
            raise Unauthenticated(f"the token {token.name} has expired: `symphony token add` at the server makes a new one")
        return _Caller(token.credentials, token)

    def _find(self, token_id: str) -> Token | None:
        """Raises Unauthenticated when the token file cannot be trusted; the own token is not in it."""
        if self.own and token_id == self.own.token.id:
            return self.own.token
        try:
            return self._tokens.by_id().get(token_id) if self._tokens else None
        except SymphonyError:
            raise Unauthenticated("the server cannot check tokens: its token file is unusable (its log says why)") from None

    def _end_of(self, token: Token) -> str | None:
        """Why a token that was good is so no longer; None while it is."""
        try:
            if self._find(token.id) != token:
                return "was revoked"
        except Unauthenticated:
            return "cannot be checked any more (the server's log says why)"
        return "has expired" if token.is_expired(self._clock()) else None

    def _confined(self, credentials: Credentials) -> Credentials:
        """Admins may do everything, so start programs too; but nobody's programs run less confined than they must be."""
        scopes = credentials.scopes + (("run",) if credentials.is_admin and "run" not in credentials.scopes else ())
        needed = OWN_USER if credentials.principal == OWN.principal else STRANGERS
        if not self._unconfined and self._level > needed:
            scopes = tuple(s for s in scopes if s != "run")
        return replace(credentials, scopes=scopes)

    def _check_scope(self, method: str, who: _Caller) -> None:
        need, had, have = NEEDS.get(method), who.credentials, self._confined(who.credentials)
        if need is None or need in have.scopes:
            return
        if need in had.scopes or had.is_admin:
            if not self._is_found:
                raise WouldBlock("the server is starting: how far programs are confined is not known yet", retry_after_s=1.0)
            whom = "the server's own user only" if self._level == OWN_USER else "nobody"
            why = f" ({self._lacks})" if self._lacks else ""
            raise NotOwner(
                f"{had.principal} may not start programs: they are confined at level {self._level} here, so scope {need} works for "
                f"{whom}, unless the server is started with `symphony serve --unconfined`{why}",
                scope=need,
            )
        how = f"`symphony token add --scope {need}` makes a token that has it"
        raise NotOwner(f"{had.principal} may not start programs: scope {need} is needed ({how})", scope=need)
