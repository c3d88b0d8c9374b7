"""symphony fsck: prove what is kept, and mend it (cli/fsck.py).

Exit code 1 if something is broken that was not mended: pages whose checksum is wrong or that are missing, edited files that are
lost.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from vllm_symphony.cli import findings, operand
from vllm_symphony.cli.command import EXIT_ERROR
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client

EXAMPLE = "symphony fsck --rebuild /kb"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", type=operand.path, default="/", metavar="PATH", help="what to look at (default: /)")
    parser.add_argument("--rebuild", action="store_true", help="compute the pages of stale files again")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that: 30s, 10m")
    parser.add_argument("--json", action="store_true", help="a JSON object: findings, num_files, num_pages")


async def call(client: Client, args: argparse.Namespace) -> int:
    async with progress("checking" + (" and rebuilding" if args.rebuild else "")):
        result = await client.fsck(args.path, rebuild=args.rebuild, timeout_s=args.timeout)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        findings.show_findings(result.findings)
        print(f"{result.num_files:,} files and {result.num_pages:,} pages were looked at, {len(result.findings):,} findings")
    rebuilt = {found.ino for found in result.findings if found.kind == "rebuilt"}
    return EXIT_ERROR if any(f.kind in findings.BROKEN and f.ino not in rebuilt for f in result.findings) else 0
