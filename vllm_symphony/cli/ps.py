"""symphony ps: list processes (cli/ps.py)."""

from __future__ import annotations

import argparse

from vllm_symphony.abi.types import ProcessStat
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import age, duration
from vllm_symphony.cli.table import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony ps --all --json"

COLUMNS = {
    "PID": lambda p: p.pid,
    "STATE": lambda p: p.state if p.exit is None else f"exit {p.exit.code}",
    "KIND": lambda p: p.kind if p.connected or p.exit is not None else "session, away",
    "AGE": lambda p: age(p.started_ns),
    "DEVICE": lambda p: duration(p.usage.device_s),
    "THREADS": lambda p: p.num_threads,
    "FILES": lambda p: p.num_files,
    "PAGES": lambda p: p.num_pages,
    "IN": lambda p: p.usage.tokens_in,
    "OUT": lambda p: p.usage.tokens_out,
    "NAME": lambda p: p.name or "-",
    "WAITS FOR": lambda p: ",".join(p.waiting) or "-",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", nargs="?", type=natural, help="only this process")
    parser.add_argument("-a", "--all", action="store_true", help="also those that ended")
    parser.add_argument("--json", action="store_true", help="a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    processes = await client.ps(args.pid)
    show([p for p in processes if args.all or args.pid or _is_alive(p)], COLUMNS, as_json=args.json)
    return 0


def _is_alive(process: ProcessStat) -> bool:
    return process.exit is None
