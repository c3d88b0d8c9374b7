"""Namespaces: what of the machine can be seen at all (runtime/sandbox/namespace.py).

    network   no interface, no address, none of the abstract sockets of others
    ipc       none of the shared memory and message queues of others
    uts       the machine's name is not told
    mount     the private root
    user      for a server that is not root: all others need it, and each program gets one more, in which its tasks are counted

Made once, in the fork server. There is no pid namespace: it would need an init for each fork server, and what it would hide and
protect (other processes) is out of reach already: /proc is not there, and signals go to oneself only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vllm_symphony.runtime.sandbox.libc import sethostname, syscall

NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_USER, NEW_NETWORK = 0x20000, 0x04000000, 0x08000000, 0x10000000, 0x40000000
_EACH = {"network": NEW_NETWORK, "ipc": NEW_IPC, "uts": NEW_UTS, "mount": NEW_MOUNT}
HOST_NAME = "symphony"


@dataclass(frozen=True, slots=True)
class Entered:
    """Names of the namespaces that this process is in now, and why the first of the others was refused."""

    names: tuple[str, ...]
    refused: str = ""


def unshare(flags: int) -> None:
    """Leave these namespaces for new ones. Raises OSError."""
    syscall("unshare", flags)


def enter_user() -> None:
    """A user namespace in which we are who we were. Raises OSError, perhaps after it was entered."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEW_USER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def enter_others() -> Entered:
    """As many of the others as this process may."""
    names, refused = [], ""
    for name, flag in _EACH.items():
        try:
            unshare(flag)
        except OSError as e:
            refused = refused or str(e)
        else:
            names.append(name)
    if "uts" in names:
        sethostname(HOST_NAME)
    return Entered(tuple(names), refused)
