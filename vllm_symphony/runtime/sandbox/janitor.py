"""Who cleans up when the fork server is killed (runtime/sandbox/janitor.py).

The groups of programs would outlive a fork server that dies of SIGKILL, and nobody else knows them. So a process that does nothing
else holds the fork server's pidfd and the groups' directories, and sleeps: when the fork server is gone, however it went, it kills
what is left in the groups and removes them. It is forked from the fork server, shares its memory, and runs in a session of its own.
"""

from __future__ import annotations

import os
import select
import time
from typing import NoReturn

from vllm_symphony.runtime.sandbox.cgroup import Cgroups
from vllm_symphony.runtime.sandbox.lockdown import close_all_but

NAME = b"symph-janitor"  # what the system's `ps` shows: 15 bytes
_TRIES, _WAIT_S = 200, 0.01


def start(cgroups: Cgroups) -> int:
    """Fork it; gives its pid. It ends soon after this process. Raises OSError."""
    watched = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        _clean_after(watched, cgroups)
    os.close(watched)
    return pid


def _clean_after(watched: int, cgroups: Cgroups) -> NoReturn:
    try:
        os.setsid()
        with open("/proc/self/comm", "wb") as name:
            name.write(NAME)
        close_all_but((watched, *cgroups.descriptors()))
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        for _ in range(_TRIES):
            if cgroups.empty():
                break
            time.sleep(_WAIT_S)  # the system still buries what was killed
    finally:
        os._exit(0)
