"""What a program prints, on its way to the kernel (engine/output.py).

    pipe (64 KiB, the system's) --at most the allowance--> decoder --whole lines--> kernel.output

A program that prints faster than its allowance waits in `write`: the pipe is full and nobody reads it. So a program may print a
gigabyte and our memory does not grow. Text is cut behind a line's end where there is one; a line that is not finished is shown
after `TAIL_HOLD_NS`, so a prompt without a newline appears too.
"""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable

from vllm_symphony.engine.poll import Alarm, Poll

READ_BYTES = 1 << 16
TAIL_HOLD_NS = 50_000_000
_MAX_TAIL_CHARS = 8192
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Allowance:
    """A token bucket in bytes: `rate` per second, at most a quarter of a second of it at once."""

    __slots__ = ("_burst", "_bytes", "_rate", "_t_ns")

    def __init__(self, rate: int, now_ns: int) -> None:
        self._rate = rate
        self._burst = max(READ_BYTES, rate // 4)
        self._bytes = float(self._burst)
        self._t_ns = now_ns

    def left(self, now_ns: int) -> int:
        self._bytes = min(self._burst, self._bytes + (now_ns - self._t_ns) * self._rate / 1e9)
        self._t_ns = now_ns
        return int(self._bytes)

    def spend(self, num_bytes: int) -> None:
        self._bytes -= num_bytes

    def enough_at_ns(self) -> int:
        """When a whole read will be allowed again."""
        return self._t_ns + int(max(0.0, READ_BYTES - self._bytes) / self._rate * 1e9) + 1


class OutputPipe:
    """The reading end of a program's stdout or stderr. Owns the fd. `on_text` gets its text, `on_end` comes once, at its end."""

    def __init__(
        self, fd: int, poll: Poll, allowance: Allowance, on_text: Callable[[str], None], on_end: Callable[[], None]
    ) -> None:
        os.set_blocking(fd, False)
        self.closed = False
        self._fd = fd
        self._poll = poll
        self._allowance = allowance
        self._on_text = on_text
        self._on_end = on_end
        self._decode = _Utf8Decoder(errors="replace").decode
        self._tail = ""
        self._tail_alarm: Alarm | None = None
        self._resume_alarm: Alarm | None = None
        poll.watch(fd, self._ready)

    def drain(self, now_ns: int) -> None:
        """Take what is there now, as far as the allowance goes, and show it, unfinished line too."""
        if not self.closed and self._resume_alarm is None:
            self._read(now_ns)
        self._show_tail()

    def finish(self) -> None:
        """The process is gone: take what it left (at most what a pipe holds), and close. Without `on_end`. Idempotent."""
        left = 4 * READ_BYTES
        while left > 0 and not self.closed:
            try:
                data = os.read(self._fd, READ_BYTES)
            except OSError:
                break
            if not data:
                break
            left -= len(data)
            self._take(data)
        self._close()

    def _ready(self, mask: int) -> None:
        self._read(time.monotonic_ns())

    def _read(self, now_ns: int) -> None:
        allowed = self._allowance.left(now_ns)
        if allowed < READ_BYTES:
            self._pause()
            return
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._allowance.spend(len(data))
            self._take(data)
        else:
            self._close()
            self._on_end()

    def _pause(self) -> None:
        """Leave epoll altogether: a pipe whose writer is gone would be reported without end."""
        self._poll.forget(self._fd)
        self._resume_alarm = self._poll.alarm(self._allowance.enough_at_ns(), self._resume)

    def _resume(self) -> None:
        self._resume_alarm = None
        self._poll.watch(self._fd, self._ready)

    def _take(self, data: bytes) -> None:
        text = self._tail + self._decode(data)
        end = text.rfind("\n") + 1
        if len(text) - end > _MAX_TAIL_CHARS:
            end = len(text)
        self._tail = text[end:]
        if end:
            self._on_text(text[:end])
        if self._tail and self._tail_alarm is None:
            self._tail_alarm = self._poll.alarm(time.monotonic_ns() + TAIL_HOLD_NS, self._show_tail)

    def _show_tail(self) -> None:
        if self._tail_alarm is not None:
            self._tail_alarm.cancel()
            self._tail_alarm = None
        text, self._tail = self._tail, ""
        if text:
            self._on_text(text)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._tail += self._decode(b"", True)
        self._show_tail()
        if self._resume_alarm is not None:
            self._resume_alarm.cancel()
        self._poll.forget(self._fd)
        os.close(self._fd)
