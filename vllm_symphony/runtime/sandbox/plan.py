"""What a program's process is locked down with (runtime/sandbox/plan.py).

`Layers` is what this machine gives, found once; `Plan` is what one program gets of it. A plan belongs to the fork server: `ruleset`
is a descriptor there, and children that it forks have it under the same number until they are locked down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_symphony.abi.confinement import OWN_USER, STRANGERS, UNCONFINED, Missing
from vllm_symphony.runtime.sandbox.seccomp import Filter

if TYPE_CHECKING:
    from vllm_symphony.runtime.sandbox.slot import Slots

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Layers:
    """Which layers there are. `user`: `own` (a uid for each program), `namespace`, or `` for the server's own user."""

    seccomp: bool = False
    landlock: int = 0  # the version of its ABI
    user: str = ""
    private_root: bool = False
    namespaces: tuple[str, ...] = ()
    cgroup: str = ""  # `v1`, `v2`
    missing: tuple[Missing, ...] = ()

    @property
    def level(self) -> str:
        """Whose programs these are fit for (abi/confinement.py)."""
        if not self.seccomp:
            return UNCONFINED
        return STRANGERS if self.landlock and self.user and self.cgroup else OWN_USER

    def active(self) -> list[str]:
        """The names of those that are there, for people."""
        found = ["seccomp"] if self.seccomp else []
        found += [f"landlock {self.landlock}"] if self.landlock else []
        found += [f"{self.user} user"] if self.user else []
        found += [f"cgroup {self.cgroup}"] if self.cgroup else []
        found += ["private root"] if self.private_root else []
        return found + [f"{name} namespace" for name in self.namespaces]


@dataclass(frozen=True, slots=True)
class Plan:
    """One program's lockdown. `uid` is its own user where layers.user is `own`; `base_bytes` is what an empty program's address
    space has."""

    image: str
    layers: Layers
    filter: Filter | None = field(default=None, repr=False)
    ruleset: int = -1
    slots: Slots | None = field(default=None, repr=False, compare=False)
    uid: int | None = None
    base_bytes: int = 0
    memory_bytes: int = 256 * MIB
    cpu_s: int = 60
    tasks: int = 16
    fds: int = 64
