"""The check that runs around every test sees what it should see."""

import os
import subprocess
import threading

import pytest

from tests import leaks as subject
from tests.leaks import Allowed, left_behind, look

KINDS = frozenset({"threads", "fds", "children"})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(subject, "SETTLE_S", 0.05)


def test_nothing_is_found_when_nothing_is_left():
    before = look()

    assert left_behind(before, Allowed(), KINDS) == []


def test_a_thread_is_found_until_it_ends():
    before, stop = look(), threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()

    assert left_behind(before, Allowed(), KINDS) == ["thread forgotten"]
    assert left_behind(before, Allowed(threads=("forgotten",)), KINDS) == []

    stop.set()
    thread.join()
    assert left_behind(before, Allowed(), KINDS) == []


def test_a_pipe_is_found():
    before = look()
    ends = os.pipe()

    assert len(left_behind(before, Allowed(), KINDS)) == 2
    assert left_behind(before, Allowed(), KINDS - {"fds"}) == []

    for fd in ends:
        os.close(fd)


def test_a_child_and_a_zombie_are_found():
    before = look()
    child = subprocess.Popen(["sleep", "60"])
    assert "sleep 60" in left_behind(before, Allowed(), KINDS)[0]

    child.kill()
    assert "never waited for" in left_behind(before, Allowed(), KINDS)[0]

    child.wait()
    assert left_behind(before, Allowed(), KINDS) == []
