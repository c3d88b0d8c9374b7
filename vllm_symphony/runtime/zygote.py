"""The fork server: a small warm Python that forks one process for each program (runtime/zygote.py).

    reactor ==exec==> zygote (modules imported and run in, one thread, no torch, no grpc)
                         |--fork--> ready, ready, ready ...      pool.py: locked down, waiting for a program
                         |--fork--> program 1                    child.py
                         |--fork--> program 2                    memory shared until written; meter.py watches their CPU time

There is one for each image of the runtime, `python` and `wasm`. It is executed with an almost empty environment (an environment
that is cleared later would stay in /proc/self/environ), never runs program code itself, and holds no file but its socket, and a
pidfd and a leash per child. It does one thing at a time in a loop: take a request (abi/launch.py), report an end, and when nothing
is to do, look at the meter or make one more child ready. The end of a program is its pidfd becoming readable: no signal handler,
and no pid is ever used after it was reaped. When the reactor is gone (end of file) it kills all programs and ends; when it is gone
itself, its children die with it (PR_SET_PDEATHSIG).
Programs are in the session of the kernel's host, in groups of their own: where the scheduler groups by session (autogroup),
priorities count within a session only.
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
import time

from vllm_symphony.abi.confinement import UNCONFINED
from vllm_symphony.abi.launch import FDS_PER_LAUNCH, PACKET_BYTES, Cause, Record, Rlimits, Verb, pack_used
from vllm_symphony.runtime import advice, child
from vllm_symphony.runtime.image import IMAGES, Image
from vllm_symphony.runtime.meter import Meter
from vllm_symphony.runtime.pool import READY, READY_WHEN_IDLE, Child, End, Pool
from vllm_symphony.runtime.sandbox import Plan, Slot, prepare_zygote

QUIET_S = 0.03  # without a launch; before, the pool is not filled: in a burst the CPU is needed for what was asked for
IDLE_S = 300.0  # without a launch; then fewer are held ready
RETRY_S = 1.0  # after a child that could not be made
_REQUESTS_AT_ONCE = 32
_SIGNALS = {Verb.KILL: signal.SIGKILL, Verb.STOP: signal.SIGSTOP, Verb.CONT: signal.SIGCONT}
_EXIT_OF = {Cause.DENIED: 128 + signal.SIGSYS, Cause.MEMORY: 128 + signal.SIGKILL, Cause.CPU: 124}


class Zygote:
    """Serves one reactor over `control`, until it closes. Without a plan programs are not confined."""

    def __init__(self, control: socket.socket, image: Image, meter: Meter, plan: Plan | None) -> None:
        self._control = control
        self._image = image
        self._meter = meter
        self._os_pid = os.getpid()
        self._refused = 0  # the errno of the last child that could not be locked down
        self._pool = Pool(plan, self._become)
        self._children: dict[int, Child] = {}  # by the kernel's pid
        self._launched_s = time.monotonic() - QUIET_S
        self._retry_s = 0.0  # when the pool may be filled again
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        level = plan.layers.level if plan is not None else UNCONFINED
        if plan is not None and level == UNCONFINED:
            self._refused = errno.EPERM  # nobody said that programs may run so
        self._tell(Record(Verb.READY, 0, ord(level)))

    def serve(self) -> None:
        """Until the reactor is gone; then end every child."""
        self._pool.target = READY
        while True:
            events = self._poll.poll(self._patience_s())
            for fd, _ in events:
                if fd == self._control.fileno():
                    if not self._take_requests():
                        self._end_all()
                        return
                elif fd in self._pool.children:
                    self._reap(self._pool.children[fd])
            self._measure()
            if not events:
                self._fill_pool()

    def _patience_s(self) -> float | None:
        """How long there is nothing to do."""
        wakes_s = []
        if (fill_s := self._next_fill_s()) is not None:
            wakes_s.append(fill_s)
        elif self._pool.target == READY:
            wakes_s.append(self._launched_s + IDLE_S)
        next_s = self._meter.next_s()
        if next_s is not None:
            wakes_s.append(next_s)
        return max(0.0, min(wakes_s) - time.monotonic()) if wakes_s else None

    def _take_requests(self) -> bool:
        """All that wait, in order; launches that come together are forked together. False when the reactor is gone."""
        launches: list[tuple[Record, list[int]]] = []
        for _ in range(_REQUESTS_AT_ONCE):
            try:
                packet, fds, _, _ = socket.recv_fds(self._control, PACKET_BYTES, FDS_PER_LAUNCH + 1)
            except BlockingIOError:
                break
            except ConnectionError:
                packet = b""
            if not packet:
                return False
            record = Record.unpack(packet)
            if record.verb is Verb.LAUNCH:
                launches.append((record, fds))
            else:
                self._launch_all(launches)
                self._signal(record.pid, _SIGNALS[record.verb])
        self._launch_all(launches)
        return True

    def _launch_all(self, launches: list[tuple[Record, list[int]]]) -> None:
        if len(launches) > 1 and not self._refused:
            with contextlib.suppress(OSError):  # each of them meets it again
                self._pool.make_enough(len(launches))
        for record, fds in launches:
            self._launch(record.pid, fds, record.rlimits or Rlimits())
        launches.clear()

    def _launch(self, pid: int, fds: list[int], rlimits: Rlimits) -> None:
        self._launched_s = time.monotonic()
        self._pool.target = READY
        try:
            if self._refused == errno.EPERM:
                raise OSError(errno.EPERM, "programs cannot be confined here")
            if len(fds) < FDS_PER_LAUNCH:
                raise OSError(errno.EMFILE, "file descriptors were lost on the way")  # the system drops what does not fit
            one = self._pool.pick(rlimits)
        except OSError as e:
            self._tell(Record(Verb.FAILED, pid, e.errno or errno.EIO))
        else:
            self._children[pid] = one
            self._watch_new()
            self._meter.watch(pid, one.os_pid)
            self._tell(Record(Verb.STARTED, pid, one.os_pid))  # before it can say anything itself
            one.hand(pid, fds)
        for fd in fds:
            os.close(fd)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        one = self._children.get(pid)
        if one is not None:
            one.was_killed |= number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                one.signal(number)

    def _fill_pool(self) -> None:
        """One more, or fewer when nobody has needed any for long."""
        now_s = time.monotonic()
        if now_s >= self._launched_s + IDLE_S:
            self._pool.target = READY_WHEN_IDLE
            self._pool.shrink()
        if (fill_s := self._next_fill_s()) is not None and now_s >= fill_s:
            try:
                self._pool.make_ready()
            except OSError:  # a launch will say so
                self._retry_s = now_s + RETRY_S
            self._watch_new()

    def _next_fill_s(self) -> float | None:
        """When the pool gets one more, by the monotonic clock; None: it has enough, or none can be locked down."""
        if not self._pool.wants_more or self._refused:
            return None
        return max(self._launched_s + QUIET_S, self._retry_s)

    def _watch_new(self) -> None:
        """Hear of the ends of children that were made since the last time."""
        while self._pool.new:
            self._poll.register(self._pool.new.pop().pidfd, select.EPOLLIN)

    def _become(self, leash: int, plan: Plan | None, slot: Slot | None) -> None:
        """The forked side: it must never return into the loop."""
        code = 70
        try:
            code = child.main(self._os_pid, self._image, leash, plan, slot)
        except BaseException:  # noqa: BLE001  the process boundary
            sys.excepthook(*sys.exc_info())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(BaseException):
                    stream.flush()
            os._exit(code)

    def _reap(self, one: Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            one.signal(signal.SIGKILL)  # what it left running in its group
        self._meter.forget(one.pid)
        self._poll.unregister(one.pidfd)
        end = self._pool.reap(one)
        self._refused = end.failure or self._refused
        if not one.pid:
            return
        del self._children[one.pid]
        if end.failure:
            self._tell(Record(Verb.FAILED, one.pid, end.failure))
            return
        self._refused = 0  # it was locked down: what failed before has passed
        cause, code = _cause(one, end), os.waitstatus_to_exitcode(end.status)
        self._tell(Record(Verb.EXITED, one.pid, _EXIT_OF.get(cause, 128 - code if code < 0 else code), end.cpu_s, cause))

    def _measure(self) -> None:
        next_s = self._meter.next_s()
        if next_s is not None and (now_s := time.monotonic()) >= next_s:
            for packet in pack_used(self._meter.scan(now_s)):
                self._send(packet)

    def _end_all(self) -> None:
        children = list(self._pool.children.values())
        for one in children:
            with contextlib.suppress(ProcessLookupError):
                one.signal(signal.SIGKILL)
        for one in children:
            self._pool.reap(one)

    def _tell(self, record: Record) -> None:
        self._send(record.pack())

    def _send(self, packet: bytes) -> None:
        """Waits for room: the reactor always reads."""
        with contextlib.suppress(ConnectionError):  # the reactor is gone: the next request is the end of file
            while True:
                try:
                    self._control.send(packet)
                    return
                except BlockingIOError:
                    select.select([], [self._control], [])


def _cause(one: Child, end: End) -> Cause:
    """What ended it, if it was not itself and not we."""
    if not os.WIFSIGNALED(end.status) or one.was_killed:
        return Cause.NONE
    number = os.WTERMSIG(end.status)
    if number == signal.SIGSYS:
        return Cause.DENIED
    if number == signal.SIGKILL and end.out_of_memory:
        return Cause.MEMORY
    if number == signal.SIGXCPU or (number == signal.SIGKILL and end.cpu_s >= one.rlimits.cpu_s):
        return Cause.CPU
    return Cause.NONE


def warm_up(kind: str) -> Image:
    """Import what programs use and run it in, so that a fork has it. One thread: others do not survive a fork."""
    for stream in (sys.stdout, sys.stderr):  # programs have these objects
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    image = IMAGES[kind]()
    image.load()
    advice.install()
    num_threads = len(os.listdir("/proc/self/task"))
    assert num_threads == 1, f"{num_threads} threads in the fork server: an import started some"
    gc.collect()
    gc.freeze()  # a collection in a child would copy every shared page
    return image


def main() -> None:
    """`python -m vllm_symphony.runtime.zygote FD IMAGE CPUS [unconfined]`: serve the reactor on that inherited socket."""
    fd, kind, cpus, *flags = sys.argv[1:]
    os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
    os.dup2(int(fd), child.SOCKET_FD, inheritable=False)  # a child puts its own socket there: nothing else may have that number
    if int(fd) != child.SOCKET_FD:
        os.close(int(fd))
    control = socket.socket(fileno=child.SOCKET_FD)
    control.setblocking(False)
    os.environ.pop("PYTHONPATH", None)
    sys.argv = ["program"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two files for each program
    image = warm_up(kind)
    meter = Meter()
    plan = None if "unconfined" in flags else prepare_zygote(kind)
    try:
        Zygote(control, image, meter, plan).serve()
    finally:
        if plan is not None and plan.slots is not None:
            plan.slots.close()


if __name__ == "__main__":
    main()
