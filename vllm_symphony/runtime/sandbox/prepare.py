"""The fork server's part: everything that is done once for all programs (runtime/sandbox/prepare.py)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from vllm_symphony.runtime.sandbox import image, landlock, namespace, seccomp
from vllm_symphony.runtime.sandbox.libc import mallopt
from vllm_symphony.runtime.sandbox.plan import Layers, Missing, Plan
from vllm_symphony.runtime.sandbox.syscall_table import here

_M_ARENA_MAX = -8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def prepare_zygote(kind: str = "python") -> Plan:
    """Confine the fork server's surroundings as far as this machine lets us, and say what a child is to put on.

    Call it once, with one thread, when everything is imported. Never raises for what the machine lacks: `plan.layers` says it.
    """
    mallopt(_M_ARENA_MAX, 1)  # an arena for each thread would be 64 MiB of address space each
    base_bytes, seen = _address_space(), image.look(kind)
    missing: list[Missing] = []
    architecture = here()
    has_seccomp = architecture is not None and seccomp.is_there()
    if not has_seccomp:
        missing.append(Missing("seccomp", "this system has no seccomp filters", "a kernel with CONFIG_SECCOMP_FILTER"))
    namespaces = tuple(name for flag, name in namespace.NAMES.items() if _tried(partial(namespace.unshare, flag)))
    abi = landlock.version()
    ruleset = landlock.make_ruleset(abi, seen.readable, listable=seen.listable, writable=seen.writable) if abi else -1
    layers = Layers(
        seccomp=has_seccomp,
        landlock=abi,
        user="own" if os.geteuid() == 0 else "",
        namespaces=namespaces,
        missing=tuple(missing),
    )
    compiled = seccomp.compile_filter(architecture, files=bool(abi)) if has_seccomp and architecture else None
    return Plan(kind, layers, compiled, ruleset, base_bytes=base_bytes)


def _tried(step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError:
        return False
    return True


def _address_space() -> int:
    """Of this process, which its children have too."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * _PAGE_BYTES
    except OSError:
        return 1 << 30
