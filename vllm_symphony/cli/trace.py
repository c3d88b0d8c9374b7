"""symphony trace: a process's calls and the engine's steps as a picture, for ui.perfetto.dev or chrome://tracing (cli/trace.py)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vllm_symphony.abi.calls import StracePart
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.strace import gap
from vllm_symphony.client.client import Client
from vllm_symphony.errors import AccessDenied, InvalidArgument
from vllm_symphony.trace.file import load
from vllm_symphony.trace.timeline import timeline

EXAMPLE = "symphony trace 12 -o best_of_n.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", nargs="?", type=natural, help="the process, with all that it spawned; with --from default: all")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write it (default: trace-PID.json)")
    parser.add_argument(
        "--from", dest="source", metavar="FILE", type=Path, help="take it from a file of `strace -o`, not from a server"
    )


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.pid is None:
        raise InvalidArgument("which process? (symphony ps lists them)")
    parts = [part async for part in client.strace(args.pid, children=True, steps=True)]
    return _write(parts, {p.pid: p.name for p in await client.ps()}, args)


def start(args: argparse.Namespace) -> int:
    """With --from."""
    source = load(args.source)
    return _write(list(source.of(args.pid, True)), {p.pid: p.name for p in source.processes.values()}, args)


def _write(parts: Sequence[StracePart], names: Mapping[int, str], args: argparse.Namespace) -> int:
    records, steps = [r for part in parts for r in part.records], [s for part in parts for s in part.steps]
    missing = sum(part.missing for part in parts)
    if missing:
        print(gap(missing), file=sys.stderr)
    picture = timeline(records, steps, names, missing=missing)
    path = args.output or Path(f"trace-{args.pid}.json" if args.pid is not None else "trace.json")
    try:
        path.write_text(json.dumps(picture, separators=(",", ":")), encoding="utf-8")
    except OSError as e:
        raise AccessDenied(f"cannot write {path}: {e.strerror}", path=str(path)) from None
    num_steps = sum(event["ph"] == "X" and event["cat"] == "step" for event in picture["traceEvents"])
    print(f"{path}: {len(records)} calls and {num_steps} engine steps; open it in https://ui.perfetto.dev", file=sys.stderr)
    return 0
