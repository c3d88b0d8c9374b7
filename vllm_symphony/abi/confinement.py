"""How far programs are confined, in a letter (abi/confinement.py): the later, the less.

A   seccomp, Landlock, a user for each program, memory in a control group      strangers' programs may run
B   seccomp; without an own user, Landlock or control group                    those of the server's own user
C   nothing that holds                                                         none, unless `--unconfined`
"""

from __future__ import annotations

from dataclasses import dataclass

STRANGERS, OWN_USER, UNCONFINED = "A", "B", "C"


@dataclass(frozen=True, slots=True)
class Missing:
    """A layer that is not there: why, and what an operator can do, in a line."""

    layer: str
    why: str
    fix: str
