"""The audit log: who did what to whom, and who was not let in (edge/audit.py).

    STATE_DIR/audit/audit.jsonl, .1, .2 ...     JSON lines, 0600, the newest without a number

    {"t_s": 1760000000.123, "door": "tcp", "principal": "ops", "token": "4f1c09a77be2", "peer": "10.0.0.7:51034", "action": "kill",
     "target": "42", "outcome": "OK", "ms": 0.8, "request_id": "..."}

What is written: control actions, and every attempt that was denied. What never is: tokens, texts, arguments. All processes of a
server (and `symphony token`) append to one file, a line in one write; who finds it full moves it on, under a lock that nobody
waits for.

A flood must not fill the disk, nor push out what happened before it: lines that others can cause at will (`bounded`) are limited
for each source and altogether, and the next one that is written counts those that were not (`unseen`). The files are bounded in
size and number. When a line cannot be written, serving goes on, it is said once in the server's log and counted in `num_lost`; with
`required` the action is refused instead: `demand` writes a line before it, so nothing happens that is not there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_symphony.edge.meter import DOORS
from vllm_symphony.edge.rate import Limit, Rates
from vllm_symphony.edge.state_dir import make_private
from vllm_symphony.edge.token import holds_token
from vllm_symphony.errors import QuotaExceeded, SymphonyError, WouldBlock

FOLDER, FILE = "audit", "audit.jsonl"
MAX_FILE_BYTES = 16 << 20
NUM_OLD = 7  # files beside the newest
MAX_WORD = 500  # characters of what a caller chose
RETRY_AFTER_S = 5.0
OF_A_SOURCE, OF_ALL = Limit(per_s=1, burst=20), Limit(per_s=10, burst=200)  # lines that others can cause at will
_ALL = "all sources"
_log = logging.getLogger("symphony.audit")

Word = str | int | float | bool


class Audit:
    """One process's pen. Without a state directory nothing is written."""

    def __init__(
        self,
        state_dir: Path | None,
        *,
        required: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.required = required
        self.num_lines, self.num_lost, self.num_unseen = 0, 0, 0
        self._path = state_dir / FOLDER / FILE if state_dir else None
        self._max_bytes = max_file_bytes
        self._clock = clock
        self._fd = -1
        self._seen: tuple[int, int] = (0, 0)  # device and inode of what `_fd` is
        self._unseen: dict[str, int] = {}
        self._is_broken = False
        self._bounds = Rates({"*": OF_A_SOURCE, _ALL: OF_ALL}, clock=clock)

    def write(
        self, *, principal: str, door: str, action: str, target: str, outcome: str, bounded: str | None = None, **more: Any
    ) -> bool:
        """One line. `bounded`: the source, where somebody can cause such lines at will. `more` that is None is left out.

        False when it could not be written.
        """
        if self._path is None:
            return not self.required
        now_s = self._clock()
        if bounded is not None and not self._may(bounded):
            return True
        line: dict[str, Word] = {"t_s": round(now_s, 3), "door": door, "principal": principal, "action": action}
        line |= {"target": target, "outcome": outcome} | {k: v for k, v in more.items() if v is not None}
        if bounded is not None and (num := self._unseen.pop(bounded, 0)):
            line["unseen"] = num
        return self._append(self._path, json.dumps({k: _shown(v) for k, v in line.items()}).encode() + b"\n")

    def demand(self, *, principal: str, door: str, action: str, target: str, **more: Any) -> None:
        """Where audit is required: a line that this is about to be done. Raises WouldBlock when it cannot be written."""
        if self.required and not self.write(principal=principal, door=door, action=action, target=target, outcome="begun", **more):
            raise WouldBlock(
                "the audit log cannot be written, and this server does nothing that it cannot record",
                retry_after_s=RETRY_AFTER_S,
            )

    def close(self) -> None:
        """Put the pen down; the next line takes it up again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _may(self, source: str) -> bool:
        try:
            self._bounds.admit(source)
            self._bounds.admit(_ALL)
        except QuotaExceeded:
            self.num_unseen += 1
            if source in self._unseen or len(self._unseen) < 1024:
                self._unseen[source] = self._unseen.get(source, 0) + 1
            return False
        return True

    def _append(self, path: Path, line: bytes) -> bool:
        try:
            self._open(path, len(line))
            if self._is_broken:
                line = b"\n" + line  # after the half of one that the disk still took
            if os.write(self._fd, line) < len(line):
                raise OSError(28, "only a part of the line was written")
        except (OSError, SymphonyError) as e:
            why = e.strerror if isinstance(e, OSError) else e.message
            self.num_lost += 1
            DOORS.audit.add("failed")
            if not self._is_broken:
                _log.error("%s cannot be written (%s): %s", path, why, "control actions are refused" if self.required else
                           "actions are not recorded until it can")  # fmt: skip
            self._is_broken = True
            self.close()
            return False
        self.num_lines += 1
        DOORS.audit.add("ok")
        if self._is_broken:
            self._is_broken = False
            _log.warning("%s can be written again; %d lines are missing", path, self.num_lost)
        return True

    def _open(self, path: Path, num_bytes: int) -> None:
        """Have the newest file open, and moved on where it is full."""
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        if status and status.st_size and status.st_size + num_bytes > self._max_bytes and _moved_on(path, status.st_ino):
            status = None
        if self._fd >= 0 and status and (status.st_dev, status.st_ino) == self._seen:
            return
        self.close()
        make_private(path.parent)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        made = os.fstat(self._fd)
        self._seen = (made.st_dev, made.st_ino)


def files(state_dir: Path) -> list[Path]:
    """The files that are there, oldest first."""
    newest = state_dir / FOLDER / FILE
    return [p for p in (*(_old(newest, i) for i in range(NUM_OLD, 0, -1)), newest) if p.exists()]


def _moved_on(path: Path, ino: int) -> bool:
    """Give each file the next number, the last one goes. False when another process does it just now."""
    lock = os.open(path.parent / "audit.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path, follow_symlinks=False).st_ino == ino:  # else it was done meanwhile
            for i in range(NUM_OLD, 0, -1):
                younger = _old(path, i - 1) if i > 1 else path
                if younger.exists():
                    os.replace(younger, _old(path, i))
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(lock)


def _old(path: Path, i: int) -> Path:
    return path.with_name(f"{path.name}.{i}")


def _shown(value: Word) -> Word:
    """A value as it may stand in a line: short, and no token."""
    if not isinstance(value, str):
        return value
    return "(a token)" if holds_token(value) else value if len(value) <= MAX_WORD else value[:MAX_WORD] + "..."
