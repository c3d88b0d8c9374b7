"""symphony info: the running server (cli/info.py)."""

from __future__ import annotations

import argparse
from typing import Any

from vllm_symphony.cli.moment import duration
from vllm_symphony.cli.table import show_one
from vllm_symphony.client.client import Client

EXAMPLE = "symphony info --json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a JSON object")


async def call(client: Client, args: argparse.Namespace) -> int:
    info = await client.info()
    ping_s = await client.ping()
    if args.json:
        values = {"version": info.version, "abi": info.abi, "uptime_s": info.uptime_s, "model": info.model, "ping_s": ping_s}
        show_one({**values, "detail": dict(info.detail)}, as_json=True)
        return 0
    head = {"server": f"symphony {info.version} (ABI {info.abi}) at {client.target}", "up": duration(info.uptime_s)}
    show_one({**head, "ping": f"{ping_s * 1e3:.2f} ms", **_flat(info.detail)}, as_json=False)
    return 0


def _flat(detail: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in detail.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
