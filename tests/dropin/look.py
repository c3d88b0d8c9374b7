"""What the tests ask of the engine process (tests/dropin/look.py); its text is run there by the probe, which each function gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

WAIT_S = 60.0
DOORS = 2  # the edge and the web server: connected as long as the kernel lives


def os_pid(probe: Any, pid: int) -> int:
    found: int = probe.core.symphony.run_in_reactor(lambda k: k.processes[pid].os_pid)
    return found


def steps_and_calls(probe: Any) -> tuple[list[Any], list[Any]]:
    """What the kernel told of its last steps and calls."""
    steps, calls = probe.core.symphony.run_in_reactor(lambda k: (list(k.steps), list(k.log.since())[-100:]))
    return [_shown(s) for s in steps], [_shown(c) for c in calls]


def calls_that_wait(probe: Any) -> int:
    """vLLM's control calls that have reached the engine, which has not taken them."""
    return sum(getattr(kind, "name", "") == "UTILITY" for kind, _ in list(probe.core.input_queue.queue))


def engine(probe: Any) -> list[Any]:
    """Which scheduler and executor run, and how many steps may be in flight."""
    core = probe.core
    return [type(core.scheduler).__name__, type(core.model_executor).__name__, core.batch_queue_size]


def state(probe: Any) -> str:
    """What the engine's loop goes by, for a test that waits in vain."""
    core = probe.core
    s = core.scheduler
    told = {
        "pause": s._pause_state, "asleep": s.is_asleep(), "runnable": s.runnable, "running": len(s.running), "held": s.num_held(),
        "parked": len(s.parked), "returning": len(s.returning), "jobs": len(s.device.jobs), "mail": len(s.device.mail),
        "rung": s.device.rung, "look": s.next_look(), "expected": s.cohort.expected, "queue": core.input_queue.qsize(),
        "tiers_busy": s.device.tiers.busy, "counters": core.symphony._kernel.counters(),
    }  # fmt: skip
    return str(told)


def plain_requests(probe: Any) -> int:
    """Those of vLLM's own clients, also such as wait."""
    return sum(r.client_index == 0 for r in list(probe.core.scheduler.requests.values()))


def counters(probe: Any) -> dict[str, float]:
    found: dict[str, float] = probe.core.symphony._device.counters()
    return found


def settle(probe: Any) -> None:
    """All has ended; then nothing is held in the kernel and the engine, and their invariants hold."""
    reactor = probe.core.symphony
    _eventually(lambda: reactor.run_in_reactor(_is_idle), lambda: str(reactor._kernel.counters()))
    _eventually(lambda: _held(probe) == "", lambda: _held(probe))
    check(probe)
    probe.in_engine(lambda: probe.core.scheduler.device.rows.check_empty())


def check(probe: Any) -> None:
    """The invariants of what is there now."""
    probe.core.symphony.run_in_reactor(lambda k: k.check())
    probe.in_engine(lambda: probe.core.scheduler.device.check())


def _is_idle(kernel: Any) -> bool:
    """As `Kernel.idle`, but that the doors stay."""
    alive = [process for process in kernel.processes.values() if not process.has_ended]
    return (
        len(alive) == DOORS
        and not (kernel.jobs or kernel.works or kernel.timers)
        and kernel.channels.is_idle()
        and all(inode.names and not inode.num_open for inode in kernel.files.inodes.values())
    )


def _held(probe: Any) -> str:
    def look() -> str:
        s = probe.core.scheduler
        d = s.device
        held = {
            "files": d.table.files, "jobs": d.jobs, "effects": d.by_id, "finished": d.finished, "requests": s.requests,
            "running": s.running, "parked": s.parked, "pages": d.table.num_pages - d.table.pool.get_num_free_blocks(),
        }  # fmt: skip
        return ", ".join(f"{name}: {what}" for name, what in held.items() if what)

    found: str = probe.in_engine(look)
    return found


def _shown(record: Any) -> dict[str, Any]:
    """The plain fields of a record."""
    return {f.name: v for f in fields(record) if isinstance(v := getattr(record, f.name), str | int | float)}


def _eventually(found: Callable[[], Any], message: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not found():
        assert time.monotonic() < deadline, message()
        time.sleep(0.002)
