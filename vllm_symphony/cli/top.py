"""symphony top: what processes use, again and again (cli/top.py).

symphony at unix:...   up 2h07m   12 processes   pages 120/4,096   31.0 tokens/s
justitia, infercept, cohort   8 calls compute, 40 wait   predictions off by: tokens 25%
PID  STATE    DEVICE   CPU  MEMORY    IN/S  OUT/S  PAGES  RUN  QUEUED  SERVICE  NAME      WAITS FOR
 12  running   61.0%  2.0%  31.2 MiB   0.0   31.0     12    1       0     4120  triage    generate
 13  running    0.0%  0.0%  31.2 MiB   0.0    0.0      3    0       1       96  triage    generate (its turn)

On a terminal each look takes the place of the one before, until Ctrl-C; elsewhere looks follow each other, so that a file holds
them all. Rates are between two looks; in the first one since the process started.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vllm_symphony.abi.calls import SchedResult
from vllm_symphony.abi.types import FsStat, ProcessStat
from vllm_symphony.cli import size, table
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import duration, span
from vllm_symphony.client.client import Client

EXAMPLE = "symphony top --once --json"

_HOME, _CLEAR = "\x1b[H", "\x1b[J"
COLUMNS = {
    "PID": lambda r: r.process.pid,
    "STATE": lambda r: r.process.state,
    "DEVICE": lambda r: f"{r.device:.1%}",
    "CPU": lambda r: f"{r.cpu:.1%}",
    "MEMORY": lambda r: size.shown(r.process.memory_bytes) if r.process.memory_bytes else "-",
    "IN/S": lambda r: f"{r.tokens_in:.1f}",
    "OUT/S": lambda r: f"{r.tokens_out:.1f}",
    "PAGES": lambda r: r.process.num_pages,
    "RUN": lambda r: r.process.num_running,
    "QUEUED": lambda r: r.process.num_queued,
    "SERVICE": lambda r: f"{r.process.service:.0f}",
    "PRINCIPAL": lambda r: r.process.principal,
    "NAME": lambda r: r.process.program or r.process.name or "-",
    "WAITS FOR": lambda r: waits_for(r.process),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A process, and what it used a second since the last look (`device`, `cpu`: seconds of it)."""

    process: ProcessStat
    device: float
    cpu: float
    tokens_in: float
    tokens_out: float


@dataclass(frozen=True, slots=True)
class Look:
    """All at one moment."""

    t_ns: int
    uptime_s: float
    room: FsStat
    sched: SchedResult
    rows: tuple[Row, ...]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--delay", type=_delay, default=2.0, metavar="TIME", help="between two looks (default: 2s)")
    parser.add_argument("-n", "--count", type=natural, metavar="N", help="end after so many looks")
    parser.add_argument("--once", action="store_true", help="one look: as -n 1")
    parser.add_argument("--json", action="store_true", help="each look as a JSON line: t_ns, uptime_s, room, sched, processes")


async def call(client: Client, args: argparse.Namespace) -> int:
    last: Mapping[int, ProcessStat] = {}
    count, num_looks = 1 if args.once else args.count, 0
    t_ns = 0
    in_place = sys.stdout.isatty() and not args.json and count != 1
    while count is None or num_looks < count:
        if num_looks:
            await asyncio.sleep(args.delay)
        look = await _look(client, last, t_ns)
        last, t_ns = {row.process.pid: row.process for row in look.rows}, look.t_ns
        if args.json:
            table.line(_fields(look))
        else:
            _print(_lines(look, client.target), in_place=in_place, is_first=num_looks == 0)
        num_looks += 1
    return 0


async def _look(client: Client, last: Mapping[int, ProcessStat], last_ns: int) -> Look:
    info, processes, room, sched = await client.info(), await client.ps(), await client.statfs(), await client.sched()
    now_ns = time.time_ns()
    rows = [rated(p, last.get(p.pid), now_ns, last_ns) for p in processes if p.exit is None]
    rows.sort(key=lambda row: (-row.device, -row.cpu, -row.tokens_out, row.process.pid))
    return Look(now_ns, info.uptime_s, room, sched, tuple(rows))


def rated(process: ProcessStat, before: ProcessStat | None, now_ns: int, last_ns: int) -> Row:
    """What it used a second since the last look, or since it started."""
    seconds = max(now_ns - (last_ns if before else process.started_ns), 1) / 1e9
    now, then = process.usage, before.usage if before else None

    def rate(name: str) -> float:
        used: float = getattr(now, name) - (getattr(then, name) if then else 0)
        return max(0.0, used) / seconds

    return Row(process, rate("device_s"), rate("cpu_s"), rate("tokens_in"), rate("tokens_out"))


def _lines(look: Look, target: str) -> list[str]:
    pages, speed = look.room.device_pages, sum(row.tokens_out for row in look.rows)
    head = (
        f"symphony at {target}   up {duration(look.uptime_s)}   {len(look.rows)} processes   "
        f"pages {pages - look.room.device_pages_free:,}/{pages:,}   {speed:.1f} tokens/s"
    )
    return [head, scheduling(look.sched), *table.lines(look.rows, COLUMNS)]


def scheduling(sched: SchedResult) -> str:
    """Who decides, how many wait, and how well costs are foreseen."""
    policies = ", ".join(p.policy for p in sched.policies)
    errors = ", ".join(f"{quantity} {error:.0%}" for quantity, error in sorted(sched.errors.items()))
    told = f"{policies}   {sched.num_running} calls compute, {sched.num_queued} wait"
    return f"{told}   predictions off by: {errors}" if errors else told


def waits_for(process: ProcessStat) -> str:
    """The calls that it is in; it waits for its turn where the device computes none of them."""
    calls = ",".join(process.waiting) or "-"
    return f"{calls} (its turn)" if process.num_queued and not process.num_running else calls


def _print(lines: Sequence[str], *, in_place: bool, is_first: bool) -> None:
    if not in_place:
        sys.stdout.write(("" if is_first else "\n") + "\n".join(lines) + "\n")
    else:
        width, height = shutil.get_terminal_size()
        cut = [line[:width] for line in lines[: height - 1]]
        sys.stdout.write(_HOME + "".join(f"{line}\x1b[K\n" for line in cut) + _CLEAR)
    sys.stdout.flush()


def _fields(look: Look) -> dict[str, Any]:
    rows = [
        asdict(r.process) | {"rates": {"device": r.device, "cpu": r.cpu, "tokens_in": r.tokens_in, "tokens_out": r.tokens_out}}
        for r in look.rows
    ]
    return {"t_ns": look.t_ns, "uptime_s": look.uptime_s, "room": asdict(look.room), "sched": asdict(look.sched), "processes": rows}


def _delay(text: str) -> float:
    """At least a tenth of a second; for argparse."""
    return max(span(text), 0.1)
