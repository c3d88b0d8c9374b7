"""Runs WAT in this process, against a kernel that is a function (tests/unit/runtime/wasm/guest.py)."""

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wasmtime import wat2wasm

from vllm_symphony.abi.calls import Done, Exit
from vllm_symphony.abi.codec import Program, error_frame, read_args, read_call, reply_frame, signal_frame
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.errors import SymphonyError
from vllm_symphony.runtime.wasm.program import run
from vllm_symphony.runtime.wasm.transport import STACK_BYTES, BlockingTransport, small_thread

Kernel = Callable[[str, Any], Any]

PRELUDE = """
  (import "symphony" "call" (func $call (param i32 i32) (result i64)))
  (import "symphony" "take" (func $take (param i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $print (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))
  (func $ask (param $at i32) (param $size i32)
    (local $num i32)
    (local.set $num (i32.wrap_i64 (call $call (local.get $at) (local.get $size))))
    (call $take (i32.const 32768))
    (call $print (i32.const 32768) (local.get $num)))
"""


def command(body: str, *, data: str | bytes = b"", more: str = "") -> str:
    """A command whose `_start` is `body`, with $print and $ask; `data` lies at 1024, `more` are further parts of the module."""
    raw = data.encode() if isinstance(data, str) else data
    text = "".join(f"\\{byte:02x}" for byte in raw)
    imports = [line for line in more.splitlines() if "(import" in line]
    rest = "\n".join(line for line in more.splitlines() if "(import" not in line)
    return f"""(module {" ".join(imports)} {PRELUDE} {rest} (data (i32.const 1024) "{text}") (func (export "_start") {body}))"""


def asking(request: Any) -> str:
    """A command that makes this one call, and prints its answer."""
    text = request if isinstance(request, str) else json.dumps(request)
    return command(f"(call $ask (i32.const 1024) (i32.const {len(text.encode())}))", data=text)


class Guest:
    """One run. `calls` are those that reached the kernel; `kernel` answers them, None = not yet. `out` is what it printed."""

    def __init__(self, kernel: Kernel = lambda op, args: Done(), *, stdin: bytes | None = b"") -> None:
        """`stdin` None: open and silent."""
        self.calls: list[tuple[str, Any]] = []
        self.out = ""
        self._kernel = kernel
        self._ours, self._theirs = socket.socketpair()
        self._stdin = stdin

    def run(self, wat: str | bytes, *, args: str = "{}", seed: int = 1, memory_bytes: int = 0, name: str = "guest.wasm") -> Exit:
        code = wat if isinstance(wat, bytes) else bytes(wat2wasm(wat))
        serving = small_thread(self._serve, "kernel", STACK_BYTES)
        transport = BlockingTransport(self._theirs)
        reading, writing = os.pipe()
        out_reading, out_writing = os.pipe()
        if self._stdin is not None:
            os.write(writing, self._stdin)
            os.close(writing)
        try:
            return run(Program("", "main", args, name, seed, code, memory_bytes), transport, (reading, out_writing, out_writing))
        finally:
            transport.close()
            serving.join()
            self._ours.close()
            for fd in (reading, out_writing, *([writing] if self._stdin is None else [])):
                os.close(fd)
            with os.fdopen(out_reading) as out:
                self.out = out.read()

    def say(self, frame: bytes) -> None:
        """Send it something; from any thread."""
        self._ours.sendall(frame)

    def term(self) -> None:
        self.say(signal_frame("TERM"))

    def hang_up(self) -> None:
        """The kernel is gone."""
        self._ours.shutdown(socket.SHUT_RDWR)

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
