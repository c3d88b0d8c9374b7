"""The kernel's host in a process of its own, on a state directory that outlives it, and a client on its socket that blocks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from vllm_symphony.abi.calls import Hello
from vllm_symphony.abi.codec import call_frame, error_of, read_answer, read_result
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR

ROOT = Path(__file__).parent.parent.parent
WAIT_S = 120.0


class Died(Exception):
    """The host is gone."""


class Host:
    """One life of a server. `words`: flags of it, then `--` and those of the engine."""

    def __init__(self, folder: Path, *words: str, device: str = "sim", model: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.socket_path = folder / "kernel.sock"
        self.state = folder / "state"
        self.socket_path.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "vllm_symphony.engine.main", "--socket", str(self.socket_path), "--state-dir", str(self.state),
            "--device", device, *words, "--", *model,
        ]  # fmt: skip
        env = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
        with (folder / "host.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**env, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._last_id = -1  # the hello has 0
        self._reader = FrameReader()
        self._sock: socket.socket | None = None

    def connect(self) -> Host:
        """Wait until it serves, and say hello. Raises Died."""
        deadline = time.monotonic() + WAIT_S
        while self._sock is None:
            if self.process.poll() is not None:
                raise Died(self.said())
            assert time.monotonic() < deadline, self.said()
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self.socket_path))
                self._sock = sock
            except OSError:
                sock.close()
                time.sleep(0.01)
        self._sock.settimeout(WAIT_S)
        self("hello", Hello(ABI_MAJOR, ABI_MINOR))
        return self

    @property
    def is_connected(self) -> bool:
        return self._sock is not None

    def __call__(self, op: str, args: object) -> Any:
        """A call, to its end. Raises its error, or Died."""
        assert self._sock is not None
        self._last_id += 1
        try:
            self._sock.sendall(call_frame(self._last_id, op, args))
            while True:
                data = self._sock.recv(1 << 16)
                if not data:
                    raise Died(op)
                for body in self._reader.feed(data):
                    answer = read_answer(body)
                    if answer.id == self._last_id and not answer.part:
                        if answer.err is not None:
                            raise error_of(answer.err)
                        return read_result(op, answer.ok)
        except ConnectionError:
            raise Died(op) from None

    def kill_after(self, seconds: float) -> None:
        """SIGKILL, some time from now."""
        threading.Timer(seconds, self.kill).start()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> int:
        """An orderly end; its exit code."""
        self.process.terminate()
        return self._gone()

    def crash(self) -> int:
        """End it at once, if it has not."""
        self.kill()
        return self._gone()

    def _gone(self) -> int:
        code = self.process.wait(WAIT_S)
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        return code

    def said(self) -> str:
        return (self.folder / "host.log").read_text(errors="replace")[-3000:]
