"""What the page shows of the machine's state (web/live/glance.py).

    pages of one principal --at--> Glances --ps, statfs, info, at most once a second--> kernel

However many pages somebody has open, the kernel is looked at once for all of them. What is shown is bounded: of many processes the
newest that run and the last that ended; `running` and `ended` count all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from vllm_symphony.abi.calls import Find, NoArgs, Ps
from vllm_symphony.abi.types import Credentials, FileStat, ProcessStat
from vllm_symphony.edge.kernel_link import KernelLink

MAX_RUNNING, MAX_ENDED = 400, 50  # processes in one glance
MAX_CHARS = 200  # of a name
MAX_ERROR_CHARS = 500
FRESH_S = 0.9  # a glance this young does for another page
FORGET_S = 10.0

Glance = dict[str, Any]


class Glances:
    """The last glance of each principal that looks."""

    def __init__(self, link: KernelLink, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock
        self._last: dict[Credentials, tuple[float, Glance]] = {}

    async def at(self, cred: Credentials) -> Glance:
        """The machine as `cred` may see it. Raises what the kernel answers."""
        now_s = self._clock()
        self._last = {who: seen for who, seen in self._last.items() if now_s - seen[0] < FORGET_S}
        seen = self._last.get(cred)
        if seen and now_s - seen[0] < FRESH_S:
            return seen[1]
        glance = await self._look(cred)
        self._last[cred] = (now_s, glance)
        return glance

    async def _look(self, cred: Credentials) -> Glance:
        info = await info_of(self._link, cred)
        processes = (await self._link.call("ps", Ps(), cred)).processes
        room = (await self._link.call("statfs", NoArgs(), cred)).fs
        return {
            "t_ms": time.time() * 1e3,
            "boot": f"{info.get('pid')}-{info.get('started_s')}",
            "room": asdict(room),
            **processes_shown(processes),
            "engine": info.get("engine", {}),
            "kernel": info.get("kernel", {}),
            "queue": info.get("queue", {}),
            "policies": {level: p["policy"] for level, p in info.get("sched", {}).items()},
        }


async def info_of(link: KernelLink, cred: Credentials) -> dict[str, Any]:
    """What the server says of itself."""
    told: dict[str, Any] = json.loads((await link.call("info", NoArgs(), cred)).json)
    return told


def processes_shown(processes: Sequence[ProcessStat]) -> dict[str, Any]:
    """Those that run, and the last that ended, by pid; and how many there are."""
    running = sorted((p for p in processes if p.exit is None), key=lambda p: p.pid)
    ended = sorted((p for p in processes if p.exit is not None), key=lambda p: (p.ended_ns or 0, p.pid))
    shown = running[-MAX_RUNNING:] + ended[-MAX_ENDED:]
    rows = [process_shown(p) for p in sorted(shown, key=lambda p: p.pid)]
    return {"processes": rows, "running": len(running), "ended": len(ended)}


def process_shown(p: ProcessStat) -> dict[str, Any]:
    """A row of the process tree. What `main` returned stays out: it may be large."""
    exited = p.exit and {"code": p.exit.code, "reason": p.exit.reason, "error": (p.exit.error or "")[:MAX_ERROR_CHARS]}
    return {
        "pid": p.pid,
        "parent": p.parent,
        "name": (p.program or p.name)[:MAX_CHARS],
        "principal": p.principal[:MAX_CHARS],
        "state": p.state,
        "kind": p.kind,
        "runtime": p.runtime,
        "connected": p.connected,
        "started_ms": p.started_ns / 1e6,
        "ended_ms": p.ended_ns and p.ended_ns / 1e6,
        "threads": p.num_threads,
        "files": p.num_files,
        "pages": p.num_pages,
        "waiting": p.waiting[:8],
        "memory_bytes": p.memory_bytes,
        "usage": asdict(p.usage),
        "exit": exited,
    }


async def files_of(link: KernelLink, cred: Credentials, path: str, name: str, limit: int) -> dict[str, Any]:
    """The first `limit` files at or below `path` that the caller may read, by name, and how many there are."""
    found = await link.call("find", Find(path=path, name=name, kind="file", limit=limit), cred)
    return {"files": [_file_shown(f) for f in found.files], "total": found.total}


def _file_shown(f: FileStat) -> dict[str, Any]:
    return {
        "ino": f.ino,
        "path": f.path,
        "owner": f.owner[:MAX_CHARS],
        "mode": f.mode,
        "length": f.length,
        "pages": f.num_pages,
        "device_pages": f.device_pages,
        "host_pages": f.host_pages,
        "disk_pages": f.disk_pages,
        "charge": f.charge,
        "fidelity": f.fidelity,
        "durable": f.durable,
        "pinned": f.pinned,
        "stale": f.stale,
        "busy": f.busy,
        "locked": f.locked,
        "open": f.num_open,
        "modified_ms": f.modified_ns / 1e6,
    }
