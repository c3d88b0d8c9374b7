"""Tokens of a server that tests share."""

import itertools
import os
import time
from typing import Any

from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile

_NUMBERS = itertools.count()


def key(server: Any, principal: str) -> str:
    """A new token of a principal, who may start programs."""
    token, text = make(f"{principal}-{os.getpid()}-{next(_NUMBERS)}", principal, now_s=time.time(), scopes=("run",))
    TokenFile(server.state_dir).add(token)
    return text
