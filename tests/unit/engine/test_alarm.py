"""The alarm clock of hosts that sleep until something arrives."""

from __future__ import annotations

import queue
import time

from vllm_symphony.engine.alarm import Alarm

FAR_S = 1e6


def test_it_rings_once_for_the_time_that_was_set_last():
    rung: queue.Queue[float] = queue.Queue()
    alarm = Alarm(lambda: rung.put(time.monotonic()))

    alarm.set(time.monotonic() + FAR_S)
    due_s = time.monotonic() + 0.01
    alarm.set(due_s)

    assert rung.get(timeout=60) >= due_s
    alarm.stop()
    assert rung.empty()


def test_one_that_is_stopped_rings_no_more():
    rung: list[None] = []
    alarm = Alarm(lambda: rung.append(None))
    alarm.set(time.monotonic() + FAR_S)

    alarm.stop()

    assert not rung


def test_one_that_was_never_set_has_no_thread_to_end():
    Alarm(lambda: None).stop()
