"""The server's own token: its user's way in by loopback TCP (edge/own_token.py).

A TCP peer on the same machine may be anybody, so loopback needs a token too. The server makes one at each start and lays it, mode
0600, into `token` in the run directory, where the clients of its user find it:

    sym_...                 line 1: the token
    127.0.0.1:50051         then: what this server listens on, so that no client shows it to another server's port

It is never in the token file and dies with the server: what a killed one leaves behind opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vllm_symphony.edge.credentials import OWN
from vllm_symphony.edge.private_file import write_private
from vllm_symphony.edge.token import digest, make, split


class OwnToken:
    """One server's own token. `publish` when its ports are known, `withdraw` when it stops."""

    def __init__(self, path: Path) -> None:
        self._path = path
        made, self._text = make("own", "own", now_s=time.time())
        self.token = replace(made, principal=OWN.principal, groups=OWN.groups, scopes=OWN.scopes)

    @classmethod
    def published(cls, path: Path) -> OwnToken | None:
        """The one that another process of this server laid there; None when there is none."""
        try:
            text = path.read_text().split("\n", 1)[0]
        except OSError:
            return None
        parts = split(text)
        if parts is None:
            return None
        own = cls(path)
        own._text, own.token = text, replace(own.token, id=parts[0], sha256=digest(parts[1]))
        return own

    def publish(self, addresses: Sequence[str]) -> None:
        """Raises AccessDenied when the run directory cannot be written."""
        write_private(self._path, "\n".join((self._text, *addresses, "")))

    def withdraw(self) -> None:
        self._path.unlink(missing_ok=True)
