"""Users for programs: one for each that runs (runtime/sandbox/user.py).

    BASE + (fork server's pid mod 32768) * 4096 + slot      two servers of a machine do not share users

The numbers are far above those that people and services get; they are in no user database and own no file. In a container whose
user namespace maps only the first 65536, the highest thousand below `nobody` is taken.
"""

from __future__ import annotations

import os

BASE = 1_900_000_000
_PIDS, MAX_SLOTS = 32768, 4096
_SMALL_BASE, _SMALL_SLOTS = 64_000, 1_000


def range_here() -> range:
    """The users that this fork server gives to its programs; empty where it may not. Needs /proc."""
    if os.geteuid() != 0:
        return range(0)
    first = BASE + os.getpid() % _PIDS * MAX_SLOTS
    for users in (range(first, first + MAX_SLOTS), range(_SMALL_BASE, _SMALL_BASE + _SMALL_SLOTS)):
        if _is_mapped(users, "uid_map") and _is_mapped(users, "gid_map"):
            return users
    return range(0)


def _is_mapped(users: range, name: str) -> bool:
    try:
        with open(f"/proc/self/{name}") as text:
            lines = [tuple(map(int, line.split())) for line in text]
    except OSError:
        return True  # a system without user namespaces
    return any(start <= users[0] and users[-1] < start + length for start, _, length in lines)
