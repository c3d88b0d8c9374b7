"""Runs a WAT module in this process, against a kernel that is a function (tests/unit/runtime/wasm/guest.py)."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wasmtime import wat2wasm

from vllm_symphony.abi.calls import Done, Exit
from vllm_symphony.abi.codec import Program, error_frame, read_args, read_call, reply_frame, signal_frame
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.errors import SymphonyError
from vllm_symphony.runtime.wasm.program import run
from vllm_symphony.runtime.wasm.transport import BlockingTransport

Kernel = Callable[[str, Any], Any]


class Guest:
    """One run. `calls` are those that reached the kernel; `kernel` answers them, None = never."""

    def __init__(self, kernel: Kernel = lambda op, args: Done()) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._kernel = kernel
        self._ours, self._theirs = socket.socketpair()
        self._called = threading.Condition()

    def run(self, wat: str | bytes, *, args: str = "{}", seed: int = 1, memory_bytes: int = 0, name: str = "guest.wasm") -> Exit:
        code = wat if isinstance(wat, bytes) else bytes(wat2wasm(wat))
        serving = threading.Thread(target=self._serve)
        serving.start()
        transport = BlockingTransport(self._theirs)
        try:
            return run(Program("", "main", args, name, seed, code, memory_bytes), transport)
        finally:
            transport.close()
            serving.join()
            self._ours.close()

    def term(self) -> None:
        self._ours.sendall(signal_frame("TERM"))

    def _serve(self) -> None:
        reader = FrameReader()
        with suppress(OSError):
            while data := self._ours.recv(1 << 16):
                for body in reader.feed(data):
                    self._answer(body)

    def _answer(self, body: bytes) -> None:
        call = read_call(body)
        try:
            args = read_args(call)
            self.calls.append((call.op, args))
            result = self._kernel(call.op, args)
        except SymphonyError as e:
            self._ours.sendall(error_frame(call.id, e))
        else:
            if result is not None:
                self._ours.sendall(reply_frame(call.id, result))
