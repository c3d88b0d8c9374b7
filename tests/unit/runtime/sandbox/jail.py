"""Running a function in a process that is confined for it: `confined(work)` (see the sandbox's tests).

test --fork--> a fork server of its own: prepare_zygote --fork--> lock_down, work(), its value as JSON
"""

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_symphony.runtime.sandbox import Layers, Plan, lock_down, prepare_zygote


@dataclass
class Said:
    """What a process said and how it ended; `error` is the traceback of an exception in it."""

    value: Any = None
    error: str = ""
    status: int = 0
    layers: Layers = field(default_factory=Layers)


def in_child(work: Callable[..., Any], *args: Any) -> Said:
    """Run it in a fork of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _say(writing, work, *args)
    os.close(writing)
    return _hear(reading, pid)


def confined(work: Callable[[], Any], *, before: Callable[[], Any] = lambda: None, **changes: Any) -> Said:
    """Run it as a program is run; `before` changes the machine for the fork server, `changes` the plan."""
    outer = in_child(_serve, work, before, changes)
    assert not outer.error, outer.error
    said = Said(**outer.value["said"])
    layers = outer.value["layers"]
    said.layers = Layers(**{name: tuple(v) if isinstance(v, list) else v for name, v in layers.items() if name != "missing"})
    return said


def prepared(before: Callable[[], Any] = lambda: None) -> tuple[str, list[str], list[str]]:
    """Level, active layers and reasons of what is missing, of a fork server on a machine that `before` changed."""

    def work() -> tuple[str, list[str], list[str]]:
        before()
        plan = prepare_zygote()
        plan.slots.close()
        return plan.layers.level, plan.layers.active(), [f"{m.layer}: {m.why}" for m in plan.layers.missing]

    said = in_child(work)
    assert not said.error, said.error
    level, active, missing = said.value
    return level, active, missing


def _serve(work: Callable[[], Any], before: Callable[[], Any], changes: dict[str, Any]) -> dict[str, Any]:
    before()
    plan = replace(prepare_zygote(), **changes)
    slot = plan.slots.take(plan)
    said = in_child(_locked, slot.plan(plan), work)
    plan.slots.give(slot)
    plan.slots.close()
    told = {"value": said.value, "error": said.error, "status": said.status}
    layers = {name: getattr(plan.layers, name) for name in ("seccomp", "landlock", "user", "private_root", "namespaces", "cgroup")}
    return {"said": told, "layers": layers}


def _locked(plan: Plan, work: Callable[[], Any]) -> Any:
    lock_down(plan, keep=(2, _said_on))
    return work()


_said_on = -1


def _say(writing: int, work: Callable[..., Any], *args: Any) -> None:
    global _said_on
    _said_on = writing
    try:
        try:
            said = {"value": work(*args)}
        except BaseException:  # noqa: BLE001  told to the test
            said = {"error": traceback.format_exc()}
        os.write(writing, json.dumps(said).encode())
    finally:
        os._exit(0)


def _hear(reading: int, pid: int) -> Said:
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return Said(**json.loads(text) if text else {}, status=os.waitstatus_to_exitcode(status))
