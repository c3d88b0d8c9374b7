"""symphony logs: what a process printed (cli/logs.py)."""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import replace

from vllm_symphony.abi.types import ProcessEvent
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import clock, moment
from vllm_symphony.cli.output import show
from vllm_symphony.client.client import Client

EXAMPLE = "symphony logs -f --since 5m 12"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=natural, help="the process, running or ended not long ago")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("--tail", type=natural, metavar="N", help="only the last N events")
    parser.add_argument("--since", type=moment, metavar="WHEN", help="only events since then: 10m (s, m, h, d) or 2026-01-31T12:00")
    parser.add_argument("-t", "--times", action="store_true", help="begin each line with when it was printed")
    parser.add_argument("--json", action="store_true", help="each event as a JSON line")


async def call(client: Client, args: argparse.Namespace) -> int:
    kept = await client.logs(args.pid)
    next_seq = kept[-1].seq + 1 if kept else 1
    for event in deque((e for e in kept if args.since is None or e.t_ns >= args.since), maxlen=args.tail):
        _show(event, args)
    if args.follow:
        async for event in client.attach(args.pid, from_seq=next_seq):
            _show(event, args)
    return 0


def _show(event: ProcessEvent, args: argparse.Namespace) -> None:
    if args.times and event.kind in ("stdout", "stderr") and not args.json:
        event = replace(event, text="".join(f"{clock(event.t_ns)}  {line}" for line in event.text.splitlines(keepends=True)))
    show(event, as_json=args.json)
