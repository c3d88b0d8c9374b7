import sys
import time
from collections.abc import Iterator

import pytest

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
