"""symphony gc: remove what has expired, or is referred to by nobody (cli/gc.py)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from vllm_symphony.cli import size
from vllm_symphony.cli.findings import show_findings
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client

EXAMPLE = "symphony gc --dry-run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--json", action="store_true", help="a JSON object: removed, num_bytes")


async def call(client: Client, args: argparse.Namespace) -> int:
    async with progress("collecting"):
        result = await client.gc(dry_run=args.dry_run)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        show_findings(result.removed)
        verb = "would free" if args.dry_run else "freed"
        print(f"{verb} {size.shown(result.num_bytes)}, in {len(result.removed):,} thing{'' if len(result.removed) == 1 else 's'}")
    return 0
