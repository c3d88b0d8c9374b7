"""What a server holds: file descriptors, child processes and connections of each of its processes, and what its kernel has open.

Bad input may cost what any request costs; when its sender is gone all of it must be as before.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

SETTLE_S = 15.0
FORK_SERVER = "vllm_symphony.runtime."  # the children that it keeps ready, and its ends of their pipes, come and go


@dataclass(frozen=True)
class Census:
    """Numbers by what they count."""

    held: dict[str, int] = field(default_factory=dict)

    def more_than(self, before: "Census") -> dict[str, str]:
        """What there is more of now."""
        return {k: f"{before.held.get(k, 0)} -> {n}" for k, n in self.held.items() if n > before.held.get(k, 0)}


def taken(process: psutil.Process, kernel: Callable[[], dict[str, int]]) -> Census:
    """Of a server's process and all below it. `kernel`: what its kernel holds."""
    held = dict(kernel())
    for p in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            parent, words = p.parent(), " ".join(p.cmdline()[1:5])
            if p != process and (parent is None or FORK_SERVER in " ".join(parent.cmdline())):
                continue
            kind = f"{p.name()} {words}"
            connections = [c for c in p.net_connections("inet") if c.status in ("ESTABLISHED", "CLOSE_WAIT")]
            fds = 0 if FORK_SERVER in words else p.num_fds()
            for what, number in (("processes", 1), ("fds", fds), ("connections", len(connections))):
                held[f"{what} of {kind}"] = held.get(f"{what} of {kind}", 0) + number
    return Census(held)


def settled(before: Census, look: Callable[[], Census], spare: int = 0) -> None:
    """Until nothing is there that was not before, but for `spare` descriptors of each process that a library opened once."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        more = {k: v for k, v in look().more_than(before).items() if not _is_spare(k, v, spare)}
        if not more:
            return
        assert time.monotonic() < deadline, f"left behind: {more}"
        time.sleep(0.1)


def kernel_of(detail: str) -> dict[str, int]:
    """What the kernel holds for somebody, of GetInfo's detail."""
    held = json.loads(detail)["kernel"]
    kinds = ("sessions", "programs", "jobs", "files", "fds", "timers", "viewers", "tracers", "processes")
    return {kind: held[kind] for kind in kinds}


def _is_spare(what: str, change: str, spare: int) -> bool:
    before, _, now = change.partition(" -> ")
    return what.startswith("fds of") and int(now) - int(before) <= spare
