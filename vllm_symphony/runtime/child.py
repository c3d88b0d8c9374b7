"""A program's process, from the fork to its exit (runtime/child.py).

    fork -> own group, no foreign files, quiet limits -> first frame: the program -> load -> run -> `exit` frame -> os._exit

File descriptors afterwards: 0 /dev/null, 1 and 2 pipes to the reactor, 3 the socket to the kernel. The exit code says how it
ended: 0 it returned, 1 it raised, 2 it is no program or the arguments do not fit, 130 it was cancelled; SystemExit is honoured.
Confinement (rlimits, Landlock, seccomp) will sit between the first two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import inspect
import json
import os
import random
import resource
import signal
import socket
import sys
from typing import Any

from vllm_symphony.abi.calls import Exit
from vllm_symphony.abi.codec import Program, read_answer
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.errors import BadProgram
from vllm_symphony.runtime import loader
from vllm_symphony.runtime.transport import SocketTransport

SOCKET_FD = 3
NICE = 10
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, link: int, stdout: int, stderr: int) -> int:
    """Become the program whose ends of socket and pipes these are; give the exit code. `parent` is the fork server's pid."""
    _leave_parent(parent)
    _take_files(link, stdout, stderr)
    sock = socket.socket(fileno=SOCKET_FD)
    reader = FrameReader()
    first, *later = _first_frames(sock, reader)
    program = read_answer(first).program
    assert program is not None, "the first frame is the program"
    random.seed(program.seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(program.seed & 0xFFFFFFFF)
    transport = SocketTransport(sock, reader, later)
    end = run(program, transport)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    transport.send_last("exit", end)
    return end.code


def run(program: Program, transport: SocketTransport) -> Exit:
    """Load and run; what a user should see of a failure goes to stderr."""
    try:
        entry, kwargs = loader.load(program)
    except BadProgram as e:
        print(e.message, file=sys.stderr)
        return Exit(2, error=_last_line(e.message), reason="program")
    except BaseException as e:  # noqa: BLE001  the process boundary
        return _failure(e)
    try:
        value = asyncio.run(_drive(entry, kwargs, transport, program.seed))
    except BaseException as e:  # noqa: BLE001  the process boundary
        return _failure(e)
    try:
        return Exit(0, value=json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as e:
        message = f"TypeError: {program.entry} returned what is not JSON: {e}"
        print(message, file=sys.stderr)
        return Exit(1, error=message, reason="exception")


async def _drive(entry: Any, kwargs: dict[str, Any], transport: SocketTransport, seed: int) -> Any:
    """The program's main task. TERM cancels it, once."""
    task = asyncio.current_task()
    assert task is not None
    transport.start(on_term=task.cancel)
    with contextlib.suppress(ImportError):
        from vllm_symphony.lip.transport import bind

        bind(transport, seed=seed)
    await asyncio.sleep(0)  # a TERM that came before the loop was there
    result = entry(**kwargs)
    return await result if inspect.isawaitable(result) else result


def _failure(error: BaseException) -> Exit:
    if isinstance(error, SystemExit):
        return _system_exit(error)
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return Exit(130, error="cancelled", reason="cancelled")
    text = loader.traceback_of(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
    return Exit(1, error=_last_line(text), reason="exception")


def _system_exit(error: SystemExit) -> Exit:
    if error.code is None or isinstance(error.code, int):
        return Exit((error.code or 0) & 0xFF)
    print(error.code, file=sys.stderr)
    return Exit(1, error=_last_line(str(error.code)))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:1000]


def _leave_parent(parent: int) -> None:
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(137)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _take_files(link: int, stdout: int, stderr: int) -> None:
    """Put our files at 0..3, close all others. The given fds are above 3 or already in place by luck: so they go up first."""
    link, stdout, stderr = (_dup_above(fd) for fd in (link, stdout, stderr))
    null = _dup_above(os.open(os.devnull, os.O_RDWR))
    for number, fd in enumerate((null, stdout, stderr, link)):
        os.dup2(fd, number, inheritable=number < SOCKET_FD)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > SOCKET_FD:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(0, "r"), os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace"),
        os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace"),
    )  # fmt: skip
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _dup_above(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def _first_frames(sock: socket.socket, reader: FrameReader) -> list[bytes]:
    while True:
        data = sock.recv(1 << 18)
        if not data:
            os._exit(137)  # the reactor is gone
        frames = reader.feed(data)
        if frames:
            return frames
