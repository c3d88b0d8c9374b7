"""Giving up what a process may do for being who it is (runtime/sandbox/privilege.py).

    drop_bounding_set()   no capability can ever come back, by no exec
    become(uid)           its own user and group, no other groups; the capabilities of root go with it
    drop_capabilities()   those that are left: for a process that stays who it is
    forbid_gains()        no_new_privs

A change of user clears the signal that comes when the parent dies (PR_SET_PDEATHSIG): `become` restores it, or programs would
outlive a fork server that is killed.
"""

from __future__ import annotations

import contextlib
import os
import struct
from errno import EINVAL

from vllm_symphony.runtime.sandbox.libc import prctl, syscall

_PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 23, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION = 0x20080522  # three: 64 bits in two words
_LAST_POSSIBLE = 63


def drop_bounding_set() -> None:
    """Empty it. Raises OSError where this process may not."""
    for capability in range(_LAST_POSSIBLE + 1):
        try:
            there = prctl(_PR_CAPBSET_READ, capability)
        except OSError:
            return  # above the last one
        if there:
            prctl(_PR_CAPBSET_DROP, capability)


def bounding_set() -> set[int]:
    """The capabilities that are still in it."""
    found = set()
    for capability in range(_LAST_POSSIBLE + 1):
        with contextlib.suppress(OSError):
            if prctl(_PR_CAPBSET_READ, capability):
                found.add(capability)
    return found


def become(uid: int, parent_death_signal: int) -> None:
    """Be user and group `uid` and nobody else, for good. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (uid,) * 3:  # -1 means: as it is
        raise OSError(EINVAL, f"{uid} is no user to become")
    prctl(_PR_SET_PDEATHSIG, parent_death_signal)


def drop_capabilities() -> None:
    """Have none of any kind, whoever we are. Raises OSError."""
    with contextlib.suppress(OSError):  # before Linux 4.3 there are no ambient ones
        prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    syscall("capset", struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))


def forbid_gains() -> None:
    """No exec may ever give more rights. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
