"""Which calls are worth a line of the audit log, and what it names (edge/deed.py).

    control    what changes others' work, rights or limits: each is written, with how it ended
    looks      what shows others' work: written where scope `admin` makes that possible, some a minute
    denied     any call that ended with EACCES, EPERM or UNAUTHENTICATED

A target is a name: of a file, program, process or principal. Never what was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_symphony.errors import AccessDenied, NotOwner, SymphonyError, Unauthenticated

DENIED = frozenset(e.reason for e in (AccessDenied, NotOwner, Unauthenticated))
CONTROL = frozenset((
    "run", "spawn", "kill", "setrlimit", "setquota", "setsched", "setweight", "install", "uninstall", "chmod", "chown", "gc",
    "fsck", "export", "import",
))  # fmt: skip
LOOKS = frozenset({"strace", "attach", "ps", "why"})
_OPS = {"SetLimits": "setrlimit", "ListProcesses": "ps"}  # RPCs whose system call has another name
_TARGETS = ("path", "program", "pid", "principal", "name", "level")  # of a request or of a call's arguments


def action_of(method: str) -> str:
    """The name of what an RPC does: that of its system call."""
    name = method.rpartition("/")[2]
    return _OPS.get(name, name.lower())


def target_of(asked: Any) -> str:
    """Whom a request is about; empty where it names nobody."""
    for name in _TARGETS:
        value = getattr(asked, name, None)
        if value and isinstance(value, str | int):
            return str(value)
    return ""


def runtime_of(asked: Any) -> str | None:
    """How a program is to run, where the request says so: `trusted` is worth to be known."""
    runtime = getattr(asked, "runtime", "")
    return runtime if isinstance(runtime, str) and runtime else None


def outcome_of(error: BaseException | None) -> str:
    """How a call ended, in one word."""
    if error is None:
        return "OK"
    return error.reason if isinstance(error, SymphonyError) else "EINTR" if not isinstance(error, Exception) else "EIO"


class Told:
    """The calls of one session that are under way, where their end is worth a line."""

    MAX = 1024

    def __init__(self, write: Callable[[str, str, str, str | None], None]) -> None:
        """`write`: takes action, target, outcome and runtime."""
        self._write = write
        self._asked: dict[int, tuple[str, str, str | None]] = {}

    def asked(self, call_id: int, op: str, args: Any) -> None:
        """A call was made. What is many calls at once counts as what it is."""
        if op in CONTROL or len(self._asked) < self.MAX:
            self._asked[call_id] = (op, target_of(args), runtime_of(args))

    def answered(self, call_id: int, reason: str | None) -> None:
        """It ended; `reason`: of its error."""
        op, target, runtime = self._asked.pop(call_id, ("", "", None))
        if op and (op in CONTROL or reason in DENIED):
            self._write(op, target, reason or "OK", runtime)
