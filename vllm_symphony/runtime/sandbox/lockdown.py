"""Putting the layers on (runtime/sandbox/lockdown.py).

The order matters: another user needs capabilities, Landlock and seccomp need no_new_privs, and seccomp comes last because it
forbids all that was done before it. The bounding set is empty already, except in a user namespace that is new.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection, Iterator
from errno import EPERM

from vllm_symphony.runtime.sandbox import landlock, namespace, privilege, rlimit
from vllm_symphony.runtime.sandbox.libc import prctl
from vllm_symphony.runtime.sandbox.plan import Plan

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_MAX_FD = 1 << 30


class LayerFailed(OSError):
    """A layer of the plan cannot be put on. The process is half confined and must end."""

    def __init__(self, layer: str, error: OSError) -> None:
        super().__init__(error.errno, f"{layer}: {error}")
        self.layer = layer


def lock_down(plan: Plan, keep: Collection[int] = (0, 1, 2, 3)) -> None:
    """Confine this process, for good, and close all descriptors but `keep`. It has one thread.

    Raises LayerFailed, an OSError; also for a plan without seccomp: what is run without it is run on purpose, and not by this.
    """
    if plan.filter is None:
        raise LayerFailed("seccomp", OSError(EPERM, "this machine has none"))
    signal = ctypes.c_int()
    prctl(_PR_GET_PDEATHSIG, ctypes.addressof(signal))
    with _layer("user"):
        has_namespace = plan.uid is None and plan.layers.user == "namespace"
        if has_namespace:  # before the limits: that on tasks would hold for all of them together, kept in the namespace
            namespace.unshare(namespace.NEW_USER)  # one for each: tasks are counted in it
        rlimit.apply(plan)
        if plan.uid is not None:
            privilege.become(plan.uid, signal.value)
        if has_namespace:
            privilege.drop_bounding_set()  # a new namespace begins with a full one
            prctl(_PR_SET_PDEATHSIG, signal.value)
        privilege.drop_capabilities()
    with _layer("seccomp"):
        privilege.forbid_gains()
    with _layer("landlock"):
        if plan.ruleset >= 0:
            landlock.enforce(plan.ruleset)
    close_all_but(keep)
    with _layer("seccomp"):
        plan.filter.put_on(os.getpid())


@contextlib.contextmanager
def _layer(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise LayerFailed(name, e) from e


def close_all_but(keep: Collection[int]) -> None:
    """Close every other descriptor of this process."""
    start = 0
    for fd in sorted(keep):
        if start < fd:  # os.closerange(0, 0) closes all
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, _MAX_FD)
