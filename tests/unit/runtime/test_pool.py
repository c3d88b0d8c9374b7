"""The pool, with children that do as the test says; none of them is confined."""

import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from vllm_symphony.abi.launch import Rlimits
from vllm_symphony.runtime import pool
from vllm_symphony.runtime.pool import Pool

USUAL, OTHERS = Rlimits(), Rlimits(memory_bytes=1 << 20)
SOON_S = 0.02  # threads that wait for the interpreter already do so for 5 ms at most


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """No other thread of this process (a session's servers have some) asks for the interpreter. A child of the C library's fork
    would inherit the request, and wait for that thread to take it, which it has not. A fork server has one thread."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    time.sleep(SOON_S)
    yield
    sys.setswitchinterval(interval_s)


def wait_and_tell(leash_fd, plan, slot):
    """Wait for files, write one's pid to the first of them, end."""
    os.dup2(leash_fd, 3)
    os.closerange(4, 1 << 16)
    leash = socket.socket(fileno=3)
    packet, fds, _, _ = socket.recv_fds(leash, 1, 4)
    if packet:
        os.write(fds[0], b"%d\n" % os.getpid())
    os._exit(0 if packet else 3)


def fail(leash_fd, plan, slot):
    pool.tell_failure(socket.socket(fileno=os.dup(leash_fd)), PermissionError(errno.EPERM, "no"))
    os._exit(0)


@pytest.fixture
def made():
    pools = []

    def make(become, target=0):
        pools.append(Pool(None, become))
        pools[-1].target = target
        return pools[-1]

    yield make
    for one in pools:
        for child in list(one.children.values()):
            os.kill(child.os_pid, signal.SIGKILL)
            one.reap(child)


def end_of(one, child):
    select.select([child.pidfd], [], [], 20)
    return one.reap(child)


def assigned(one, rlimits=USUAL):
    """A child with a program, and what it wrote to its file."""
    reading, writing = os.pipe()
    child = one.pick(rlimits)
    child.hand(7, [writing, writing, writing])
    os.close(writing)
    with os.fdopen(reading) as file:
        return child, int(file.read())


def test_those_that_were_made_first_are_taken_first(made):
    one = made(wait_and_tell, target=2)
    one.make_enough(2)
    first, second = one.children.values()

    taken = [assigned(one) for _ in range(2)]

    assert taken == [(first, first.os_pid), (second, second.os_pid)]
    assert all(end_of(one, child).status == 0 for child in (first, second)) and not one.children


def test_other_limits_get_a_child_of_their_own_and_twice_the_same_become_the_usual(made):
    one = made(wait_and_tell, target=1)
    one.make_ready()
    (ready,) = one.children.values()

    first, _ = assigned(one, OTHERS)
    assert first is not ready and first.rlimits == OTHERS and not one.wants_more
    assigned(one, OTHERS)

    assert one.wants_more  # the ready one was for what nobody asks for
    assert os.waitstatus_to_exitcode(end_of(one, ready).status) == 3
    one.make_ready()
    assert assigned(one, OTHERS)[0].rlimits == OTHERS


def test_one_that_died_while_it_waited_is_passed_over(made):
    one = made(wait_and_tell)
    one.make_ready(2)
    dead, alive = one.children.values()
    os.kill(dead.os_pid, signal.SIGKILL)
    select.select([dead.pidfd], [], [], 20)

    assert assigned(one)[0] is alive


def test_fewer_are_held_when_the_target_falls(made):
    one = made(wait_and_tell, target=3)
    one.make_ready(3)
    one.target = 1

    one.shrink()

    ended = [end_of(one, child) for child in list(one.children.values())[1:]]
    assert [os.waitstatus_to_exitcode(end.status) for end in ended] == [3, 3] and len(one.children) == 1


def test_a_lockdown_that_fails_is_told_by_its_errno(made):
    one = made(fail)
    one.make_ready()
    (child,) = one.children.values()

    assert end_of(one, child).failure == errno.EPERM


def test_every_child_leads_a_group_of_its_own(made):
    one = made(wait_and_tell)
    one.make_ready()
    (child,) = one.children.values()

    assert os.getpgid(child.os_pid) == child.os_pid
    child.signal(signal.SIGKILL)
    assert os.WTERMSIG(end_of(one, child).status) == signal.SIGKILL
