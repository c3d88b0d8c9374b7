"""symphony stat: show one file or directory (cli/stat.py)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from vllm_symphony.abi.types import FileStat
from vllm_symphony.cli import mode
from vllm_symphony.cli.operand import path
from vllm_symphony.cli.table import show_one
from vllm_symphony.client.client import Client

EXAMPLE = "symphony stat /kb/handbook.kv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=path, metavar="PATH", help="the file or directory")
    parser.add_argument("--json", action="store_true", help="a JSON object: all fields, and the extended attributes")


async def call(client: Client, args: argparse.Namespace) -> int:
    stat = await client.stat(args.path)
    attributes = await client.listxattr(args.path) if stat.kind != "proc" else {}
    if args.json:
        print(json.dumps({**asdict(stat), "xattrs": attributes}, indent=2))
    else:
        show_one({**_readable(stat), **{f"xattr {name}": value for name, value in attributes.items()}}, as_json=False)
    return 0


def _readable(stat: FileStat) -> dict[str, Any]:
    """Its fields, rights and times as people write them."""
    values: dict[str, Any] = asdict(stat)
    values["mode"] = f"{mode.shown(stat.mode, stat.kind)} ({stat.mode:04o})"
    for name in ("created_ns", "modified_ns", "expires_ns"):
        t_ns = values.pop(name)
        values[name.removesuffix("_ns")] = None if t_ns is None else datetime.fromtimestamp(t_ns / 1e9).isoformat(" ", "seconds")
    if stat.kind == "dir":
        for name in ("length", "frontier", "num_pages", "fidelity", "busy", "num_open", "stale", "pinned", "locked", "charge",
                     "device_pages", "host_pages", "disk_pages", "expires"):  # fmt: skip
            values.pop(name)
    return values
