"""Namespaces: what of the machine can be seen at all (runtime/sandbox/namespace.py)."""

from __future__ import annotations

from vllm_symphony.runtime.sandbox.libc import syscall

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_NETWORK = 0x20000, 0x04000000, 0x08000000, 0x10000000, 0x40000000
NAMES = {NEW_NETWORK: "network", NEW_IPC: "ipc", NEW_UTS: "uts", NEW_MOUNTS: "mount"}


def unshare(flags: int) -> None:
    """Leave these namespaces for new ones. Raises OSError."""
    syscall("unshare", flags)
