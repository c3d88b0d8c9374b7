"""Who calls (edge/credentials.py).

The server listens on a unix socket with mode 0600 only: whoever reaches it is the user who runs it. So there is one principal,
named as that user, and it may see and do everything.
"""

from __future__ import annotations

import getpass
import os
from typing import Any

from vllm_symphony.abi.types import Credentials


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return str(os.geteuid())


LOCAL = Credentials(_user(), scopes=("admin",))


def caller(context: Any) -> Credentials:
    """The credentials of an RPC's caller; `context` is its grpc.aio.ServicerContext."""
    return LOCAL
