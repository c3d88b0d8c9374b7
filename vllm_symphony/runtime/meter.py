"""The CPU time of programs: measured for their budgets, and taken from those that burn it (runtime/meter.py).

    works like a program       a little CPU, then it waits for a call               nice +10
    burned 50 ms on end        spins, or computes in C                              SCHED_IDLE: only what nobody else wants
    slept again                                                                     back to nice +10

Programs that did something are looked at every 50 ms, all others once a second; without programs nothing happens at all. The clock
of a foreign process is `((~pid) << 3) | 2` and costs a system call; only of those that worked more is read from /proc whether they
slept: less than half of the time running or waiting to run, by all threads together, and none wants to run now. (A state alone
would do, were it not for a program that sleeps often and shortly.)
Who is not root may not take SCHED_IDLE back (RLIMIT_NICE): there only programs that burned two seconds on end get it, and keep it.
Rejected: cgroup cpu.max, which needs root too and would slow programs on an idle machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field

from vllm_symphony.abi.launch import Used

HOT_S, COLD_S = 0.05, 1.0  # how often they are looked at
BURST_S = 0.05
BURST_FOR_EVER_S = 2.0
REPORT_S = 0.25  # how often what was used is told
_AWAKE_SHARE = 0.5
_QUIET_SCANS = 10  # without work, then it is cold
_WORKED_S = 0.001
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class _Watch:
    """One program. `burst_s`: burned since it last slept; `on_cpu_ns`: what its threads ran and waited to run."""

    pid: int
    os_pid: int
    clock: int
    cpu_s: float = 0.0
    told_s: float = 0.0
    burst_s: float = 0.0
    quiet_scans: int = 0
    is_idle: bool = False
    on_cpu_ns: dict[str, int] = field(default_factory=dict)  # by thread, at `asked_s`
    asked_s: float = 0.0


class Meter:
    """Watches programs of one fork server. Made before /proc is out of sight."""

    def __init__(self) -> None:
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._can_return = True  # until the system says no
        self._hot: dict[int, _Watch] = {}
        self._cold: dict[int, _Watch] = {}
        self._next_hot_s = self._next_cold_s = 0.0
        self._next_report_s = 0.0
        self._worked: set[int] = set()

    def watch(self, pid: int, os_pid: int) -> None:
        """From now on; `cpu_s` counts from the start of the process."""
        now_s = time.monotonic()
        if not self._hot:
            self._next_hot_s = now_s + HOT_S
        if not self._hot and not self._cold:
            self._next_cold_s = now_s + COLD_S
        self._hot[pid] = _Watch(pid, os_pid, (~os_pid) << 3 | 2)

    def forget(self, pid: int) -> None:
        """It has ended. Idempotent."""
        self._hot.pop(pid, None)
        self._cold.pop(pid, None)
        self._worked.discard(pid)

    def next_s(self) -> float | None:
        """When `scan` should be called (monotonic); None while there is no program."""
        if self._hot:
            return min(self._next_hot_s, self._next_cold_s)
        return self._next_cold_s if self._cold else None

    def scan(self, now_s: float) -> list[Used]:
        """Look at those whose time has come; what to tell of them, if it is time for that."""
        if self._cold and now_s >= self._next_cold_s:
            for watch in list(self._cold.values()):
                self._look(watch, now_s)
                if not watch.quiet_scans:
                    self._hot[watch.pid] = self._cold.pop(watch.pid)
            self._next_hot_s = now_s  # those that became hot
        if now_s >= self._next_cold_s:
            self._next_cold_s = now_s + COLD_S
        if self._hot and now_s >= self._next_hot_s:
            for watch in list(self._hot.values()):
                self._look(watch, now_s)
                if watch.quiet_scans >= _QUIET_SCANS and not watch.is_idle:
                    self._cold[watch.pid] = self._hot.pop(watch.pid)
            self._next_hot_s = now_s + HOT_S
        return self._report(now_s)

    def close(self) -> None:
        os.close(self._proc)

    def _look(self, watch: _Watch, now_s: float) -> None:
        try:
            cpu_s = time.clock_gettime(watch.clock)
        except OSError:  # it has ended, and is reaped next
            return
        burned_s, watch.cpu_s = cpu_s - watch.cpu_s, cpu_s
        watch.quiet_scans = 0 if burned_s > _WORKED_S else watch.quiet_scans + 1
        if cpu_s - watch.told_s > _WORKED_S:
            self._worked.add(watch.pid)
        if not burned_s and not watch.is_idle:
            watch.burst_s = 0.0
            return
        watch.burst_s += burned_s
        if watch.burst_s <= BURST_S and not watch.is_idle:
            return  # too little to ask /proc about; asked once it is much
        slept = self._slept(watch, now_s)
        if slept:
            watch.burst_s = 0.0
            if watch.is_idle:
                self._set_policy(watch, os.SCHED_OTHER)
        elif slept is False and not watch.is_idle and watch.burst_s > (BURST_S if self._can_return else BURST_FOR_EVER_S):
            self._set_policy(watch, os.SCHED_IDLE)

    def _slept(self, watch: _Watch, now_s: float) -> bool | None:
        """More than half of the time since it was asked last, and now too. None when it is asked for the first time."""
        before, watch.on_cpu_ns = watch.on_cpu_ns, {}
        passed_s, watch.asked_s = now_s - watch.asked_s, now_s
        on_cpu_ns, wants_cpu = 0, False
        for tid in self._threads(watch):
            try:
                ran_ns, waited_ns, _ = self._read(f"{watch.os_pid}/task/{tid}/schedstat").split()
                state = self._read(f"{watch.os_pid}/task/{tid}/stat").rpartition(")")[2].split()[0]
            except OSError:
                continue
            watch.on_cpu_ns[tid] = int(ran_ns) + int(waited_ns)
            on_cpu_ns += watch.on_cpu_ns[tid] - before.get(tid, 0)
            wants_cpu |= state == "R"
        if not before:
            return None
        return not wants_cpu and on_cpu_ns / 1e9 < _AWAKE_SHARE * passed_s

    def _set_policy(self, watch: _Watch, policy: int) -> None:
        for tid in self._threads(watch):
            try:
                os.sched_setscheduler(int(tid), policy, os.sched_param(0))
            except ProcessLookupError:
                continue
            except PermissionError:
                self._can_return = False
                return
        watch.is_idle = policy == os.SCHED_IDLE

    def _threads(self, watch: _Watch) -> list[str]:
        with contextlib.suppress(OSError):
            fd = os.open(f"{watch.os_pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
            try:
                return os.listdir(fd)
            finally:
                os.close(fd)
        return []

    def _read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY, dir_fd=self._proc)
        try:
            return os.read(fd, 4096).decode()
        finally:
            os.close(fd)

    def _report(self, now_s: float) -> list[Used]:
        if not self._worked or now_s < self._next_report_s:
            return []
        self._next_report_s = now_s + REPORT_S
        worked, self._worked = self._worked, set()
        return [self._used(watch) for pid in worked if (watch := self._hot.get(pid) or self._cold.get(pid)) is not None]

    def _used(self, watch: _Watch) -> Used:
        watch.told_s = watch.cpu_s
        resident = 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            resident = int(self._read(f"{watch.os_pid}/statm").split()[1]) * _PAGE_BYTES
        return Used(watch.pid, watch.cpu_s, resident)
