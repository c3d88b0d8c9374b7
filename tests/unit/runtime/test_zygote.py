"""When the fork server works and when it sleeps, with a pool that only counts."""

import errno
import socket
import time

import pytest

from vllm_symphony.abi.launch import Record, Verb
from vllm_symphony.runtime import zygote
from vllm_symphony.runtime.meter import Meter
from vllm_symphony.runtime.pool import READY, READY_WHEN_IDLE
from vllm_symphony.runtime.zygote import Zygote


class Pool:
    """As many ready ones as are made; `error`: none can be."""

    def __init__(self, target):
        self.target = target
        self.num_ready = self.num_tries = 0
        self.new = []
        self.error = None

    @property
    def wants_more(self):
        return self.num_ready < self.target

    def make_ready(self, count=1):
        self.num_tries += 1
        if self.error:
            raise self.error
        self.num_ready += count

    def shrink(self):
        self.num_ready = min(self.num_ready, self.target)


@pytest.fixture
def made():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    meter = Meter()
    one = Zygote(theirs, image=None, meter=meter, plan=None)
    assert Record.unpack(ours.recv(4096)).verb is Verb.READY
    one._pool = Pool(READY)
    yield one
    one._poll.close()
    meter.close()
    ours.close()
    theirs.close()


def work(one):
    """As long as there is something to do at once; how often it looked, and how long it would sleep then."""
    num = 0
    while (patience_s := one._patience_s()) == 0.0:
        num += 1
        assert num < 100, "it never sleeps"
        one._fill_pool()
    return num, patience_s


def test_it_fills_its_pool_and_sleeps_until_it_has_been_idle_for_long(made):
    made._launched_s = time.monotonic() - zygote.QUIET_S

    num, patience_s = work(made)

    assert (num, made._pool.num_ready) == (READY, READY)
    assert 0 < patience_s <= zygote.IDLE_S


def test_idle_for_long_it_holds_fewer_and_sleeps_for_good(made):
    made._pool.num_ready = READY
    made._launched_s = time.monotonic() - 2 * zygote.IDLE_S

    assert work(made) == (1, None)
    assert made._pool.num_ready == READY_WHEN_IDLE


def test_ready_ones_that_die_while_it_is_idle_are_replaced_and_it_sleeps_again(made):
    made._launched_s = time.monotonic() - 2 * zygote.IDLE_S
    work(made)
    made._pool.num_ready = 0

    assert work(made) == (READY_WHEN_IDLE, None)
    assert made._pool.num_ready == READY_WHEN_IDLE


@pytest.mark.parametrize("idle_s", [zygote.QUIET_S, 2 * zygote.IDLE_S])
def test_where_no_child_can_be_made_it_tries_again_after_a_while(made, idle_s):
    made._launched_s = time.monotonic() - idle_s
    made._pool.error = OSError(errno.EAGAIN, "no")

    num, patience_s = work(made)

    assert made._pool.num_tries == 1 and num <= 2
    assert 0 < patience_s <= zygote.RETRY_S
