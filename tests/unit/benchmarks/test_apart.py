"""A measurement's own process: its result, its failure, its end."""

import os
import time

import pytest

from benchmarks.apart import Failed, run_apart

pytestmark = pytest.mark.keeps("fds", "children")  # multiprocessing's resource tracker, one for all


def give(value):
    return value, os.getpid()


def fail():
    raise KeyError("nothing there")


def vanish():
    os._exit(7)


def test_the_result_comes_from_another_process():
    value, pid = run_apart(give, {"rate": 1.5})

    assert value == {"rate": 1.5}
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_failure_carries_the_traceback_of_where_it_happened():
    with pytest.raises(Failed, match=r"KeyError: 'nothing there'[\s\S]*in fail"):
        run_apart(fail)


def test_a_process_that_vanishes_is_a_failure():
    began = time.monotonic()

    with pytest.raises(Failed, match="exit code 7"):
        run_apart(vanish)

    assert time.monotonic() - began < 30
