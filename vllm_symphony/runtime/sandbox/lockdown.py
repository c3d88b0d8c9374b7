"""Putting the layers on (runtime/sandbox/lockdown.py).

The order matters: the bounding set and another user need capabilities, Landlock and seccomp need no_new_privs, and seccomp comes
last because it forbids all that was done before it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

from vllm_symphony.runtime.sandbox import landlock, privilege, rlimit
from vllm_symphony.runtime.sandbox.libc import prctl
from vllm_symphony.runtime.sandbox.namespace import NEW_USER, unshare
from vllm_symphony.runtime.sandbox.plan import Plan

_PR_GET_PDEATHSIG = 2
_MAX_FD = 1 << 30


def lock_down(plan: Plan, keep: Collection[int] = (0, 1, 2, 3)) -> None:
    """Confine this process, for good, and close all descriptors but `keep`. It has one thread.

    Raises OSError if a layer of the plan cannot be put on; the process is half confined then and must end.
    """
    signal = ctypes.c_int()
    prctl(_PR_GET_PDEATHSIG, ctypes.addressof(signal))
    if plan.layers.user:
        privilege.drop_bounding_set()
    rlimit.apply(plan)
    if plan.uid is not None:
        privilege.become(plan.uid, signal.value)
    elif plan.layers.user == "namespace":
        unshare(NEW_USER)  # one for each: tasks are counted in it
        privilege.drop_bounding_set()
    privilege.drop_capabilities()
    privilege.forbid_gains()
    if plan.ruleset >= 0:
        landlock.enforce(plan.ruleset)
    _close_all_but(keep)
    if plan.filter is not None:
        plan.filter.put_on(os.getpid())


def _close_all_but(keep: Collection[int]) -> None:
    start = 0
    for fd in sorted(keep):
        if start < fd:  # os.closerange(0, 0) closes all
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, _MAX_FD)
