"""The fork server's part: everything that is done once for all programs (runtime/sandbox/prepare.py).

    cgroup and janitor    while the file system is there and we are who we are
    user namespace        where we are not root
    other namespaces      and the private root
    bounding set          emptied: the fork server executes nothing
    ruleset, filter       made here, put on in each child
    proof                 a child is locked down and tries what is denied (proof.py); what it gets through with counts as absent

Each step may be refused by the machine; then its layer is missing, with the reason and what can be done, and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from vllm_symphony.abi.confinement import Missing
from vllm_symphony.abi.types import PYTHON
from vllm_symphony.runtime.sandbox import image, janitor, landlock, namespace, private_root, privilege, proof, seccomp, user
from vllm_symphony.runtime.sandbox.cgroup import Cgroups
from vllm_symphony.runtime.sandbox.libc import mallopt
from vllm_symphony.runtime.sandbox.plan import Layers, Plan
from vllm_symphony.runtime.sandbox.slot import Slots
from vllm_symphony.runtime.sandbox.syscall_table import here

_M_ARENA_MAX = -8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def prepare_zygote(kind: str = PYTHON) -> Plan:
    """Confine the fork server's surroundings as far as this machine lets us; what a child is to put on, with the places.

    Call it once, with one thread, when everything is imported. Never raises for what the machine lacks: `plan.layers` says it.
    """
    mallopt(_M_ARENA_MAX, 1)  # an arena for each thread would be 64 MiB of address space each
    base_bytes, seen = _address_space(), image.look(kind)
    missing: list[Missing] = []
    slots = Slots(user.range_here(), _cgroups(missing))
    layers = _enclose(seen, slots, missing)
    error = _refused(privilege.drop_bounding_set)  # once: children have what we have
    if error and os.geteuid() == 0:
        missing.append(Missing("bounding set", error, "run as root with CAP_SETPCAP"))
    architecture, abi = here(), layers.landlock
    ruleset = landlock.make_ruleset(abi, seen.readable, listable=seen.listable, writable=seen.writable) if abi else -1
    has_files = bool(abi) or layers.private_root
    is_readable = layers.private_root or layers.user != "own" or all(map(image.is_open_to_all, seen.listable))
    if not (has_files and is_readable):
        image.preload()
    code = seccomp.compile_filter(architecture, files=has_files) if layers.seccomp and architecture else None
    plan = Plan(kind, replace(layers, missing=tuple(missing)), code, ruleset, base_bytes=base_bytes, slots=slots)
    return proof.prove(plan, slots)


def _cgroups(missing: list[Missing]) -> Cgroups | None:
    try:
        cgroups = Cgroups.open()
        janitor.start(cgroups)
    except OSError as e:
        missing.append(
            Missing("cgroup", str(e), "run as root, or as a systemd unit with Delegate=yes (containers: a writable cgroup)")
        )
        return None
    return cgroups


def _enclose(seen: image.Image, slots: Slots, missing: list[Missing]) -> Layers:
    """Enter namespaces and the private root; say which layers there seem to be."""
    user_layer = "own"
    if not slots.users:
        error = _refused(namespace.enter_user)
        user_layer = "" if error else "namespace"
        if error:
            missing.append(Missing("user", error, "run as root, or allow user namespaces (sysctl user.max_user_namespaces)"))
    entered = namespace.enter_others()
    error = entered.refused or _refused(lambda: private_root.enter(seen))
    if error:
        missing.append(Missing("private root", error, "allow namespaces (containers: CAP_SYS_ADMIN)"))
    abi, has_seccomp = landlock.version(), here() is not None and seccomp.is_there()
    if not abi:
        missing.append(
            Missing("landlock", "this kernel has it not, or off", "Linux 5.13 or newer with landlock in the boot option lsm=")
        )
    if not has_seccomp:
        missing.append(
            Missing("seccomp", "this kernel has no filters for this architecture", "x86_64 or aarch64 with CONFIG_SECCOMP_FILTER")
        )
    version = slots.cgroups.version if slots.cgroups is not None else ""
    return Layers(has_seccomp, abi, user_layer, not error, entered.names, version)


def _refused(step: Callable[[], object]) -> str:
    """Why it cannot be done; nothing if it was."""
    try:
        step()
    except OSError as e:
        return str(e)
    return ""


def _address_space() -> int:
    """Of this process, which its children have too."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * _PAGE_BYTES
    except OSError:
        return 1 << 30
