"""symphony ps: list processes (cli/ps.py).

symphony ps              what runs                      symphony ps --tree      who spawned whom
symphony ps -l           also CPU, memory, limits       symphony ps 12          one of them
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from vllm_symphony.abi.types import ProcessStat, ResourceLimits
from vllm_symphony.cli import limit, size
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import age, duration
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client
from vllm_symphony.client.display import tree
from vllm_symphony.errors import SymphonyError

EXAMPLE = "symphony ps --all --json"

Columns = dict[str, Callable[[Any], object]]
COLUMNS: Columns = {
    "PID": lambda p: p.pid,
    "STATE": lambda p: p.state if p.exit is None else f"exit {p.exit.code}",
    "KIND": lambda p: kind(p),
    "AGE": lambda p: age(p.started_ns),
    "DEVICE": lambda p: duration(p.usage.device_s),
    "THREADS": lambda p: p.num_threads,
    "FILES": lambda p: p.num_files,
    "PAGES": lambda p: p.num_pages,
    "IN": lambda p: p.usage.tokens_in,
    "OUT": lambda p: p.usage.tokens_out,
    "NAME": lambda p: p.program or p.name or "-",
    "WAITS FOR": lambda p: ",".join(p.waiting) or "-",
}
_MORE: Columns = {
    "PRINCIPAL": lambda p: p.principal,
    "CPU": lambda p: duration(p.usage.cpu_s),
    "MEMORY": lambda p: size.shown(p.memory_bytes) if p.memory_bytes else "-",
    "TOOLS": lambda p: p.usage.num_tools,
    "MESSAGES": lambda p: p.usage.num_messages,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", nargs="?", type=natural, help="only this process")
    parser.add_argument("-a", "--all", action="store_true", help="also those that ended")
    parser.add_argument("-l", "--long", action="store_true", help="also who, CPU, memory, calls of tools, messages, limits")
    parser.add_argument("--tree", action="store_true", help="below who spawned them")
    parser.add_argument("--json", action="store_true", help="a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    processes = [p for p in await client.ps(args.pid) if args.all or args.pid or p.exit is None]
    columns = dict(COLUMNS)
    if args.tree:
        branches = {process.pid: branch for branch, process in tree(processes)}
        processes = [process for _, process in tree(processes)]
        columns["NAME"] = lambda p: branches[p.pid] + str(COLUMNS["NAME"](p))
    if args.long and not args.json:
        limits = {p.pid: await _limits(client, p) for p in processes}
        last = {name: columns.pop(name) for name in ("NAME", "WAITS FOR")}
        columns |= _MORE | {"LIMITS": lambda p: limits[p.pid]} | last
    show(processes, columns, as_json=args.json)
    return 0


def kind(process: ProcessStat) -> str:
    """`session`, or what runs a program."""
    if process.kind == "session":
        return "session" if process.connected or process.exit is not None else "session, away"
    return process.runtime or process.kind


async def _limits(client: Client, process: ProcessStat) -> str:
    if process.exit is not None:
        return "-"
    try:
        found = await client.limits(process.pid)
    except SymphonyError:
        return "-"  # it has just ended, or is another's
    return ",".join(f"{short}={text}" for short, text in used_of(found.limits, found.used).items()) or "-"


def used_of(limits: ResourceLimits, used: ResourceLimits) -> Mapping[str, str]:
    """`tokens` -> `12/1,000`, of each limit that is used up step by step."""
    found = {}
    for short, name in limit.NAMES.items():
        most, now = getattr(limits, name), getattr(used, name)
        if most is not None and now is not None:
            found[short] = f"{limit.shown(name, now)}/{limit.shown(name, most)}"
    return found
