"""Denied actions, to be tried by a process that is locked down (runtime/sandbox/attempt.py).

Each raises OSError, ValueError or RuntimeError where it is held. None of them does harm if it is not: what they would change is
put to what it is already, what they would start ends at once.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vllm_symphony.runtime.sandbox.libc import prctl, syscall
from vllm_symphony.runtime.sandbox.plan import Plan
from vllm_symphony.runtime.sandbox.privilege import bounding_set

_RARE = ("tabnanny", "nturl2path", "pyclbr", "sched", "netrc")


@dataclass(frozen=True, slots=True)
class Attempt:
    """`layer` is who should hold it."""

    name: str
    layer: str
    try_it: Callable[[], object]


def attempts(plan: Plan) -> Iterator[Attempt]:
    """Those that the layers of the plan deny. They do not end the process."""
    yield from _of_seccomp()
    if plan.layers.landlock or plan.layers.private_root:
        yield Attempt("read the server's source", "landlock", lambda: os.close(os.open(__file__, os.O_RDONLY)))
        yield Attempt("read /etc/passwd", "landlock", lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)))
    if plan.layers.landlock:
        yield Attempt("list the root directory", "landlock", lambda: os.listdir("/"))
        yield Attempt("write a file", "landlock", lambda: os.close(os.open("/symphony", os.O_WRONLY | os.O_CREAT)))
    if plan.layers.user:
        yield Attempt("be root", "user", lambda: os.setresuid(0, 0, 0))
        yield Attempt("have capabilities", "user", _have_capabilities)
        if plan.uid is not None:
            yield Attempt("be another user", "user", lambda: _must_differ(os.getresuid(), (plan.uid,) * 3))
    yield Attempt("raise a limit", "user", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (plan.fds + 1, plan.fds + 1)))
    yield Attempt("dump core", "user", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))


def fatal() -> None:
    """What must end the process."""
    syscall("ptrace", 0, 0, 0, 0)  # PTRACE_TRACEME


def use_library() -> None:
    """What must work: a module that was not imported before. Raises ImportError."""
    name = next((name for name in _RARE if name not in sys.modules), _RARE[0])
    importlib.import_module(name)


def use_threads() -> None:
    """What must work too. Raises RuntimeError."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def _of_seccomp() -> Iterator[Attempt]:
    yield Attempt("make a socket", "seccomp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    yield Attempt("make a unix socket", "seccomp", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    yield Attempt("fork", "seccomp", _fork)
    yield Attempt("execute a program", "seccomp", lambda: os.execve("/bin/true", ["true"], {}))
    yield Attempt("signal the fork server", "seccomp", lambda: os.kill(os.getppid(), 0))
    yield Attempt("make a memory file", "seccomp", lambda: os.memfd_create("symphony"))
    yield Attempt("outlive the fork server", "seccomp", lambda: prctl(1, 0))
    yield Attempt("raise its priority", "seccomp", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
    yield Attempt("leave its process group", "seccomp", lambda: os.setpgid(0, 0))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _have_capabilities() -> None:
    if not bounding_set():
        raise OSError("none")


def _must_differ(found: object, wanted: object) -> None:
    if found == wanted:
        raise OSError("as it should be")
