"""What of the page's API is worth a line of the audit log (web/live/record.py), by the rules of edge/deed.py.

A page asks again and again what its reader has asked once: who looks by scope `admin` is written once a minute for each thing that
it looks at. A signal is written each time, with how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.credentials import SHOWN
from vllm_symphony.edge.deed import CONTROL, DENIED, LOOKS
from vllm_symphony.errors import SymphonyError

AGAIN_S = 60.0
MAX_LOOKS = 4096


class Record:
    """Of one application. `audit`: where it is written."""

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._looked: dict[tuple[str, str, str], float] = {}

    @contextmanager
    def of(self, request: Request, cred: Credentials, action: str, target: str) -> Iterator[None]:
        """Write what is done inside. Raises WouldBlock where nothing may be done that cannot be written."""
        token, peer = SHOWN.get(), request.client
        line: dict[str, Any] = {
            "principal": cred.principal,
            "door": "http",
            "action": action,
            "target": target,
            "token": token.id if token else None,
            "peer": f"{peer.host}:{peer.port}" if peer else None,
        }
        if action in LOOKS and cred.is_admin and self._is_new((cred.principal, action, target)):
            self._audit.write(**line, outcome="begun", bounded=f"{action} {target} by {cred.principal}")
        if action in CONTROL:
            self._audit.demand(**line)
        try:
            yield
        except SymphonyError as e:
            if action in CONTROL:
                self._audit.write(**line, outcome=e.reason)
            elif e.reason in DENIED:
                self._audit.write(**line, outcome=e.reason, bounded=cred.principal)
            raise
        if action in CONTROL:
            self._audit.write(**line, outcome="OK")

    def _is_new(self, look: tuple[str, str, str]) -> bool:
        now_s = self._clock()
        if now_s - self._looked.get(look, -AGAIN_S) < AGAIN_S:
            return False
        if len(self._looked) >= MAX_LOOKS:
            self._looked = {k: s for k, s in self._looked.items() if now_s - s < AGAIN_S}
        if len(self._looked) < MAX_LOOKS:
            self._looked[look] = now_s
        return True
