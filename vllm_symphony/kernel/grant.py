"""Which tools a process may call (kernel/grant.py).

    the operator's file      ops = ["weather", "notes_*"]     the first layer, by principal
    Spawn.tools              ("notes_*",)                     one more for each generation
    a program's manifest     ("notes_search",)

A tool is granted when every layer has a glob that matches its name, so that a child can never have more than who started it. (The
intersection of globs is no glob, and a list of names would miss a tool that a server adds later.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.process import Kind

if TYPE_CHECKING:
    from vllm_symphony.kernel.call import Call
    from vllm_symphony.kernel.machine import Machine

MAX_GLOBS, MAX_GLOB = 256, 128


@dataclass(frozen=True, slots=True)
class Grant:
    """Immutable; `layers` of globs."""

    layers: tuple[tuple[str, ...], ...]

    def allows(self, name: str) -> bool:
        return all(any(fnmatchcase(name, glob) for glob in layer) for layer in self.layers)

    def narrowed(self, globs: Iterable[str]) -> Grant:
        """What is in both."""
        layer = tuple(globs)
        return self if layer == self.layers[-1] else Grant((*self.layers, layer))


NOTHING = Grant(((),))


def own(m: Machine, call: Call) -> Grant:
    """The caller's own: a program's is what it was given; a session or a client has what the operator gives its principal."""
    if call.process.kind is Kind.PROGRAM:
        return call.process.grant or NOTHING
    return NOTHING if m.granted_tools is None else Grant((tuple(m.granted_tools(call.cred.principal)),))


def for_child(m: Machine, call: Call, globs: tuple[str, ...] | None) -> Grant:
    """Of a program that the caller spawns. None: all that the caller has; nothing, where the caller is no program.

    Raises:
        InvalidArgument: too many globs, or too long ones.
    """
    if globs is None:
        return own(m, call) if call.process.kind in (Kind.PROGRAM, Kind.SESSION) else NOTHING
    if len(globs) > MAX_GLOBS or any(len(glob) > MAX_GLOB for glob in globs):
        raise InvalidArgument(f"tools: at most {MAX_GLOBS} globs of {MAX_GLOB} characters", limit=MAX_GLOBS)
    return own(m, call).narrowed(globs)
