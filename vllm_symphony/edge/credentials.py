"""Who calls (edge/credentials.py).

    unix socket, no token      the server's own user, scopes admin and run
    a token, at any door       its principal, groups and scopes
    a client certificate       its common name as principal, no scopes

gRPC does not tell the uid of a unix socket's peer: that the socket has mode 0600 in a folder of ours is the check. `identity.py`
finds out who it is, once for each RPC; the services ask here. Each RPC runs in a task and so in a context of its own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from vllm_symphony.abi.types import Credentials
from vllm_symphony.abi.user import own_user
from vllm_symphony.edge.token import Token
from vllm_symphony.errors import Unauthenticated

OWN = Credentials(own_user(), scopes=("admin", "run"))
CALLER: ContextVar[Credentials | None] = ContextVar("CALLER", default=None)
SHOWN: ContextVar[Token | None] = ContextVar("SHOWN", default=None)  # the token that it was proven by


def known() -> dict[str, str]:
    """What a log line may say of the request that this task serves."""
    credentials = CALLER.get()
    return {} if credentials is None else {"principal": credentials.principal}


def caller(context: Any) -> Credentials:
    """The credentials of the RPC that this task serves; `context` is its grpc.aio.ServicerContext.

    Raises Unauthenticated where nobody asked who it is: an RPC outside `Identity.known` has no caller.
    """
    credentials = CALLER.get()
    if credentials is None:
        raise Unauthenticated("this call was not authenticated")
    return credentials
