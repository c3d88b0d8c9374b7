"""The hook of all tests sees an error that is not in the call table."""

import pytest

from tests.reasons import unlisted
from tests.unit.kernel.world import World
from vllm_symphony.abi.calls import Forward
from vllm_symphony.errors import DeviceLost, FileExists
from vllm_symphony.kernel.machine import Machine


@pytest.fixture(autouse=True)
def reasons():
    """Not the one of all tests: it would see what these tests do on purpose."""


def test_an_error_that_is_not_the_calls_is_noted():
    w = World()
    with unlisted() as found:
        w.start("sleep", seconds=5)
        (call,) = w.kernel.processes[w.pid].calls.values()
        call.pending.interrupt(w.kernel, FileExists("the name is taken"), w.now_ns)

    assert found == ["sleep answered EEXIST: the name is taken"]


def test_so_is_one_of_an_item_of_forward_many():
    w = World()
    fd = w("open", tokens=[1, 2]).fd
    with unlisted() as found:
        w.start("forward_many", items=(Forward(fd),))
        (batch,) = w.kernel.processes[w.pid].calls.values()
        batch.pending.settle(w.kernel, 0, None, FileExists("the name is taken"), w.now_ns)

    assert found == ["an item of forward_many answered EEXIST: the name is taken"]


def test_an_error_of_the_table_and_a_fault_are_not():
    w = World()
    with unlisted() as found:
        w.start("close", fd=99)
        w.kernel.reject(w.pid, 77, 0, "sleep", DeviceLost("a test's fault"), w.now_ns)

    assert found == []


def test_afterwards_the_kernel_is_as_before():
    fail = Machine.fail
    with unlisted():
        assert Machine.fail is not fail

    assert Machine.fail is fail
