"""Which files a program can open, by Landlock (runtime/sandbox/landlock.py).

    make_ruleset({"/usr/lib/python3.11": ...})   once, in the fork server: a descriptor
    enforce(ruleset)                             in each program: everything else is EACCES, for good

Handled is everything that the kernel's version knows, so that nothing is left to itself: files (1), moves between directories (2),
truncation (3), TCP (4), ioctl on devices (5), abstract sockets and signals to processes outside (6).
What it does not do: `stat` of any name still works, so names and sizes can be seen; the private root (private_root.py) hides them.
Source: landlock(7), linux/landlock.h.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

from vllm_symphony.runtime.sandbox.libc import syscall

READ_FILE, READ_DIR, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_FILE_BITS = {1: 13, 2: 14, 3: 15, 5: 16}  # version -> how many rights on files it knows
_NETWORK_BITS, _SCOPES = 0b11, 0b11
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1


def version() -> int:
    """The kernel's Landlock ABI; 0 where there is none, or where it is switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def make_ruleset(abi: int, readable: Iterable[str], *, listable: Iterable[str] = (), writable: Iterable[str] = ()) -> int:
    """A ruleset: what is readable is so with all below, of the listable only names are seen, the writable are devices.

    Paths that are not there are left out.
    The caller closes it. Raises OSError.
    """
    attributes = struct.pack("=Q", _files_handled(abi))
    if abi >= 4:
        attributes += struct.pack("=Q", _NETWORK_BITS)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, READ_FILE | READ_DIR)
        for path in listable:
            _allow(ruleset, path, READ_DIR)
        for path in writable:
            _allow(ruleset, path, READ_FILE | WRITE_FILE)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def enforce(ruleset: int) -> None:
    """Restrict this process. Needs no_new_privs. Raises OSError."""
    syscall("landlock_restrict_self", ruleset, 0)


def _files_handled(abi: int) -> int:
    num_bits = max(bits for since, bits in _FILE_BITS.items() if since <= abi)
    return (1 << num_bits) - 1


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= ~READ_DIR
        syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)
