"""Somebody honest, who asks all the time while others misbehave."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_S = 0.05
MOST_S = 10.0  # of one request, on a machine that is full of test processes: a stall is longer


@contextmanager
def bystander(ask: Callable[[], None]) -> Iterator[list[float]]:
    """`ask` again and again until the block ends; how long each took. All are answered, none stalls, and at least three were."""
    stop, took, failed = threading.Event(), [], []

    def work() -> None:
        while not stop.is_set() or len(took) < 3:
            began = time.monotonic()
            try:
                ask()
            except Exception as e:  # noqa: BLE001 - raised again in the thread that waits
                failed.append(e)
                return
            took.append(time.monotonic() - began)
            stop.wait(PAUSE_S)

    thread = threading.Thread(target=work, name="bystander")
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive(), "the bystander is not answered"
    if failed:
        raise failed[0]
    assert max(took) < MOST_S, f"the bystander waited {max(took):.1f} s"
