"""The images of the runtime: what a fork server has in memory, and how its programs run (runtime/image.py).

    python   the library, asyncio, numpy       a program is a source text       runtime/program.py
    wasm     wasmtime                          a program is a module            runtime/wasm/

What a program will use is imported by the fork server, and run there a few times: what Python remembers of code that has run
(caches of attributes, specialised instructions) is then shared memory. A child that waits runs it once more, so that the pages that
every program writes to are its own before it has a program.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import socket
import sys
from typing import Protocol

from vllm_symphony.abi.calls import Exit
from vllm_symphony.abi.codec import Program, program_frame, read_answer
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import PYTHON, WASM
from vllm_symphony.runtime.program import PythonRun
from vllm_symphony.runtime.transport import SocketTransport

_MODULES = (
    "asyncio", "bisect", "collections", "contextlib", "copy", "ctypes", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "inspect", "itertools", "json", "linecache", "math", "operator", "random", "re", "resource",
    "statistics", "string", "textwrap", "time", "traceback", "types", "typing", "unicodedata", "uuid",
)  # fmt: skip
_MODULES_IF_THERE = ("numpy", "numpy.random", "vllm_symphony.lip")
_REHEARSALS = 20  # more than Python needs to specialise
_REHEARSAL = Program("async def main():\n    return 1\n", "main", "{}", "rehearsal", 1)
_LONG_REHEARSAL = Program("import asyncio\nasync def main(n: int = 1):\n    return n\n", "main", '{"n": 1}', "rehearsal", 1)


class Image(Protocol):
    """In the fork server: `load`. In a child: `prepare`, `rehearse` if there is time, `run`."""

    def load(self) -> None:
        """Import and run in what programs use."""

    def prepare(self) -> None:
        """Make what does not depend on the program."""

    def rehearse(self) -> None:
        """Touch what every program touches."""

    def run(self, program: Program, sock: socket.socket, reader: FrameReader, early: list[bytes]) -> int:
        """Run a program to its end and tell the kernel; gives the exit code."""


class PythonImage:
    """The default image."""

    def __init__(self) -> None:
        self._run: PythonRun | None = None

    def load(self) -> None:
        self._run = PythonRun()  # first: its files have low numbers
        for name in _MODULES:
            importlib.import_module(name)
        for name in _MODULES_IF_THERE:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        for _ in range(_REHEARSALS):
            self._rehearse(_LONG_REHEARSAL)

    def prepare(self) -> None:
        self._made().prepare()

    def rehearse(self) -> None:
        self._rehearse(_REHEARSAL)

    def run(self, program: Program, sock: socket.socket, reader: FrameReader, early: list[bytes]) -> int:
        _seed(program)
        transport = SocketTransport(sock, reader, early)
        run = self._made()
        end = run.run(program, transport)
        run.close()
        return _tell(end, transport)

    def _rehearse(self, play: Program) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(program_frame(play))
            reader = FrameReader()
            (frame,) = reader.feed(ours.recv(1 << 16))
            program = read_answer(frame).program
            assert program is not None
            transport = SocketTransport(ours, reader, [])
            self._made().run(program, transport)
            transport.close()

    def _made(self) -> PythonRun:
        assert self._run is not None, "load comes first"
        return self._run


class WasmImage:
    """Nothing that a program uses is made ahead: an engine belongs to the limits of one."""

    def load(self) -> None:
        importlib.import_module("vllm_symphony.runtime.wasm.program")

    def prepare(self) -> None: ...

    def rehearse(self) -> None:
        from vllm_symphony.runtime.wasm.program import rehearse

        rehearse()

    def run(self, program: Program, sock: socket.socket, reader: FrameReader, early: list[bytes]) -> int:
        from vllm_symphony.runtime.wasm.program import run
        from vllm_symphony.runtime.wasm.transport import BlockingTransport

        transport = BlockingTransport(sock, reader, early)
        return _tell(run(program, transport), transport)


IMAGES: dict[str, type[PythonImage] | type[WasmImage]] = {PYTHON: PythonImage, WASM: WasmImage}


class _Teller(Protocol):
    def send_last(self, op: str, args: object) -> None: ...


def _tell(end: Exit, transport: _Teller) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    transport.send_last("exit", end)
    return end.code


def _seed(program: Program) -> None:
    """Every program has its own random numbers, and the same again when it is replayed."""
    random.seed(program.seed)
    if "numpy" in program.source and "numpy" in sys.modules:  # for others it would only cost time and memory
        with contextlib.suppress(AttributeError):
            sys.modules["numpy"].random.seed(program.seed & 0xFFFFFFFF)
