"""The meter, with real processes that burn and sleep when they are told."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from vllm_symphony.runtime.meter import HOT_S, Meter

WAIT_S = 60.0


@pytest.fixture
def meter():
    meter = Meter()
    yield meter
    meter.close()


@pytest.fixture
def program():
    """A process that burns from the start, sleeps after USR1, and burns again after USR2, however early or late they come."""
    signals = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    os_pid = os.fork()
    if os_pid == 0:
        while True:
            while signal.SIGUSR1 not in signal.sigpending():
                pass
            signal.sigwait({signal.SIGUSR1})
            signal.sigwait({signal.SIGUSR2})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    yield os_pid
    os.kill(os_pid, signal.SIGKILL)
    os.waitpid(os_pid, 0)


def scan_until(meter: Meter, found: Callable[[list], bool]) -> None:
    """Scan as the fork server does, until it is so."""
    told: list = []
    deadline = time.monotonic() + WAIT_S
    while not found(told):
        assert time.monotonic() < deadline, told[-3:]
        next_s = meter.next_s()
        assert next_s is not None
        if (now_s := time.monotonic()) >= next_s:
            told += meter.scan(now_s)


def test_one_that_burns_gets_what_others_leave_until_it_sleeps(meter, program):
    meter.watch(7, program)
    scan_until(meter, lambda _: os.sched_getscheduler(program) == os.SCHED_IDLE)

    os.kill(program, signal.SIGUSR1)

    if os.geteuid() == 0:  # others may not give back what they took
        scan_until(meter, lambda _: os.sched_getscheduler(program) == os.SCHED_OTHER)


def test_what_it_used_is_told(meter, program):
    meter.watch(7, program)

    told: list = []
    scan_until(meter, lambda so_far: bool(so_far and so_far[-1].cpu_s > so_far[0].cpu_s) and not told.extend(so_far))

    assert {u.pid for u in told} == {7} and all(u.memory_bytes > 1 << 20 for u in told)
    assert [u.cpu_s for u in told] == sorted(u.cpu_s for u in told)


def test_one_that_sleeps_is_looked_at_rarely_and_burning_again_is_found(meter, program):
    meter.watch(7, program)
    os.kill(program, signal.SIGUSR1)

    scan_until(meter, lambda _: (meter.next_s() or 0) - time.monotonic() > 5 * HOT_S)
    os.kill(program, signal.SIGUSR2)

    scan_until(meter, lambda _: os.sched_getscheduler(program) == os.SCHED_IDLE)


def test_without_programs_nothing_is_scanned(meter, program):
    assert meter.next_s() is None

    meter.watch(7, program)
    meter.forget(7)
    meter.forget(7)

    assert meter.next_s() is None


def test_a_process_that_is_gone_is_no_error(meter):
    os_pid = os.fork()
    if os_pid == 0:
        os._exit(0)
    os.waitpid(os_pid, 0)

    meter.watch(7, os_pid)

    assert meter.scan(time.monotonic() + 10) == []
