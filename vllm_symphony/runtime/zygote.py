"""The fork server: a small warm Python that forks one process for each program (runtime/zygote.py).

    reactor ==exec==> zygote (modules imported, one thread, no torch, no grpc)
                         |--fork--> program 1
                         |--fork--> program 2       milliseconds, memory shared until written

It is executed with an almost empty environment (an environment that is cleared later would stay in /proc/self/environ), never runs
program code itself, and holds no file but its socket and one pidfd per child. It does one thing at a time in a loop: take a request
(abi/launch.py), report an end. The end of a program is its pidfd becoming readable: no signal handler, and no pid is ever used
after it was reaped. When the reactor is gone (end of file) it kills all programs and ends; when it is gone itself, its children
die with it (PR_SET_PDEATHSIG).
Prior art: Android's zygote, Chrome's, Python's multiprocessing.forkserver.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
from typing import NoReturn

from vllm_symphony.abi.launch import FDS_PER_LAUNCH, RECORD_BYTES, Record, Verb

WARM_MODULES = (
    "asyncio", "bisect", "collections", "contextlib", "copy", "ctypes", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "inspect", "itertools", "json", "linecache", "math", "operator", "random", "re", "resource",
    "statistics", "string", "textwrap", "time", "traceback", "types", "typing", "unicodedata", "uuid",
    "vllm_symphony.abi.codec", "vllm_symphony.runtime.child",
)  # fmt: skip
WARM_IF_THERE = ("numpy", "numpy.random", "vllm_symphony.lip")


class Zygote:
    """Serves one reactor over `control`, until it closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._os_pid: dict[int, int] = {}  # pid of the kernel -> pid of the system, of children not reaped
        self._pid_of: dict[int, int] = {}  # pidfd -> pid of the kernel

    def serve(self) -> None:
        """Until the reactor is gone; then end every child."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._pid_of:
                    self._reap(fd)
                elif not self._take_request():
                    self._end_all()
                    return

    def _take_request(self) -> bool:
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, RECORD_BYTES, FDS_PER_LAUNCH)
        except ConnectionError:
            return False
        if not packet:
            return False
        record = Record.unpack(packet)
        if record.verb is Verb.LAUNCH:
            self._launch(record.pid, fds)
        else:
            self._kill(record.pid)
        return True

    def _launch(self, pid: int, fds: list[int]) -> None:
        parent, os_pid = os.getpid(), -1
        try:
            if len(fds) != FDS_PER_LAUNCH:
                raise OSError(errno.EMFILE, "file descriptors were lost on the way")  # the system drops what does not fit
            os_pid = os.fork()
            if os_pid == 0:
                self._become_program(parent, fds)
            pidfd = os.pidfd_open(os_pid)
        except OSError as e:
            if os_pid > 0:
                os.kill(os_pid, signal.SIGKILL)
                os.waitpid(os_pid, 0)
            self._tell(Record(Verb.FAILED, pid, e.errno or 0))
        else:
            self._watch(pid, os_pid, pidfd)
        for fd in fds:
            os.close(fd)

    def _become_program(self, parent: int, fds: list[int]) -> NoReturn:
        """The forked side: it must never return into the loop."""
        code = 70
        try:
            self._poll.close()
            self._control.close()
            from vllm_symphony.runtime import child

            code = child.main(parent, *fds)
        except BaseException:  # noqa: BLE001  the process boundary
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(code)

    def _watch(self, pid: int, os_pid: int, pidfd: int) -> None:
        self._os_pid[pid] = os_pid
        self._pid_of[pidfd] = pid
        self._poll.register(pidfd, select.EPOLLIN)
        self._tell(Record(Verb.STARTED, pid, os_pid))

    def _kill(self, pid: int) -> None:
        """The whole group. Its id cannot be anybody else's: the leader is not reaped yet."""
        os_pid = self._os_pid.get(pid)
        if os_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os_pid, signal.SIGKILL)
            os.kill(os_pid, signal.SIGKILL)  # it may not have made its group yet

    def _reap(self, pidfd: int) -> None:
        pid = self._pid_of.pop(pidfd)
        self._kill(pid)  # what it left running in its group
        os_pid = self._os_pid.pop(pid)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(os_pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._tell(Record(Verb.EXITED, pid, 128 - code if code < 0 else code, usage.ru_utime + usage.ru_stime))

    def _end_all(self) -> None:
        for pid in self._os_pid:
            self._kill(pid)
        for os_pid in self._os_pid.values():
            os.waitpid(os_pid, 0)

    def _tell(self, record: Record) -> None:
        with contextlib.suppress(ConnectionError):  # the reactor is gone: the next request is the end of file
            self._control.send(record.pack())


def warm_up() -> None:
    """Import what programs use, so that a fork has it. numpy is single-threaded here: threads do not survive a fork."""
    for name in WARM_MODULES:
        __import__(name)
    for name in WARM_IF_THERE:
        with contextlib.suppress(ImportError):
            __import__(name)
    num_threads = len(os.listdir("/proc/self/task"))
    assert num_threads == 1, f"{num_threads} threads in the fork server: an import started some"
    gc.collect()
    gc.freeze()  # a collection in a child would copy every shared page


def main() -> None:
    """`python -m vllm_symphony.runtime.zygote FD`: serve the reactor on that inherited socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    os.environ.pop("PYTHONPATH", None)
    sys.argv = ["program"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one pidfd for each program
    warm_up()
    Zygote(control).serve()


if __name__ == "__main__":
    main()
