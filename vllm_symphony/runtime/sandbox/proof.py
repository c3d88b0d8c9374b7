"""Trying for real what the layers should deny (runtime/sandbox/proof.py).

A child of the fork server is locked down as a program is, in a place as programs get, and attempts each denied action (attempt.py).
The layer that should have held what it gets through with counts as absent, and the rest is proved again without it. What must end
the process is tried by a child of its own. Fails closed: a child that says nothing has proved nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vllm_symphony.abi.confinement import Missing
from vllm_symphony.runtime.sandbox import attempt
from vllm_symphony.runtime.sandbox.lockdown import LayerFailed, lock_down
from vllm_symphony.runtime.sandbox.plan import Plan
from vllm_symphony.runtime.sandbox.slot import Slots

_FIXES = {
    "seccomp": "nothing can be done here; please report it",
    "landlock": "nothing can be done here; please report it",
    "user": "run as root with CAP_SETUID, CAP_SETGID and CAP_SETPCAP",
    "cgroup": "let the server write to its control group",
    "library": "install Python where every user can read it, or allow mount namespaces (containers: CAP_SYS_ADMIN)",
}
_REFUSALS = (OSError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class _Failure:
    layer: str
    why: str


def prove(plan: Plan, slots: Slots) -> Plan:
    """The plan with the layers that hold, and what is missing of the rest."""
    for _ in _FIXES:
        failure = _first_failure(plan, slots) if plan.layers.seccomp else None
        if failure is None:
            break
        plan = _without(plan, failure, slots)
    return _with_library_told(plan, slots) if plan.layers.seccomp else plan


def _first_failure(plan: Plan, slots: Slots) -> _Failure | None:
    said, _ = _ask(plan, slots, _try_all)
    if "failed" in said:
        return _Failure(*said["failed"])
    if said.get("got through") != []:
        layer, names = next(iter(said.get("got through", [("seccomp", "the self-test ended early")])))
        return _Failure(layer, f"the self-test got through: {names}")
    _, status = _ask(plan, slots, lambda _: attempt.fatal())
    if status != -signal.SIGSYS:
        return _Failure("seccomp", "the self-test was not ended by ptrace")
    return None


def _try_all(plan: Plan) -> dict[str, Any]:
    through = []
    for each in attempt.attempts(plan):
        with contextlib.suppress(*_REFUSALS):
            each.try_it()
            through.append((each.layer, each.name))
    return {"got through": through}


def _try_library(_: Plan) -> dict[str, Any]:
    for use in (attempt.use_threads, attempt.use_library):
        try:
            use()
        except (ImportError, *_REFUSALS) as e:
            return {"library": f"{type(e).__name__}: {e}"}
    return {}


def _ask(plan: Plan, slots: Slots, what: Callable[[Plan], Any]) -> tuple[dict[str, Any], int]:
    """What a locked child says, and its exit code. A place or a layer that it cannot get is said as `failed`."""
    try:
        slot = slots.take(plan)
    except OSError as e:
        return {"failed": ("cgroup", str(e))}, 0
    reading, writing = os.pipe()
    entering, entered = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(entered)
        os.read(entering, 1)
        _answer(slot.plan(plan), writing, what)
    os.close(writing)
    os.close(entering)
    said: dict[str, Any] = {}
    try:
        slot.enter(pid)
    except OSError as e:
        said = {"failed": ("cgroup", str(e))}
    os.close(entered)
    with os.fdopen(reading, "rb") as pipe, contextlib.suppress(ValueError):
        said = said or json.loads(pipe.read())
    _, status = os.waitpid(pid, 0)
    slots.give(slot)
    return said, os.waitstatus_to_exitcode(status)


def _answer(plan: Plan, writing: int, what: Callable[[Plan], Any]) -> None:
    """The child's side; does not return."""
    try:
        try:
            lock_down(plan, keep=(writing,))
            said = what(plan)
        except LayerFailed as e:
            said = {"failed": (e.layer, str(e))}
        os.write(writing, json.dumps(said).encode())
    finally:
        os._exit(0)


def _without(plan: Plan, failure: _Failure, slots: Slots) -> Plan:
    layer, layers = failure.layer, _told(plan, failure)
    if layer == "seccomp":
        return replace(plan, layers=replace(layers, seccomp=False), filter=None)
    if layer == "landlock":
        return replace(plan, layers=replace(layers, landlock=0, private_root=False), ruleset=-1)
    if layer == "user":
        slots.users = range(0)
        return replace(plan, layers=replace(layers, user=""))
    slots.close()
    return replace(plan, layers=replace(layers, cgroup=""))


def _with_library_told(plan: Plan, slots: Slots) -> Plan:
    said, _ = _ask(plan, slots, _try_library)
    if "library" not in said:
        return plan
    return replace(plan, layers=_told(plan, _Failure("library", said["library"])))


def _told(plan: Plan, failure: _Failure) -> Any:
    missing = Missing(failure.layer, failure.why, _FIXES[failure.layer])
    return replace(plan.layers, missing=(*plan.layers.missing, missing))
