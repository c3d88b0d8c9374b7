"""The flags of serve that say how fast callers may ask, and what is recorded (cli/guarding.py)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_symphony.edge.guard import Rules


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--rate-limit", action="append", default=[], metavar="NAME=RATE",
                        help="how fast a principal may ask at each door, as ops=20/s, ops=90/m or '*=100/s:200' (200 of them at "
                        "once; * is whoever is not named); may be repeated (default: none)")  # fmt: skip
    parser.add_argument("--call-limit", action="append", default=[], metavar="NAME=N",
                        help="how many requests of a principal are answered at once, as '*=64'; may be repeated "
                        "(default: none)")  # fmt: skip
    parser.add_argument("--audit-required", action="store_true",
                        help="refuse control actions that the audit log cannot take (default: serve on, and say so)")  # fmt: skip
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME",
                        help="a name of this server that browsers and clients call it by, where it asks more than plain OpenAI "
                        "over HTTP; may be repeated (default: localhost, and the address of --http)")  # fmt: skip


def rules(args: argparse.Namespace) -> Rules:
    """What they say. Raises InvalidArgument for what is no limit."""
    from vllm_symphony.edge.guard import Rules

    said = Rules(tuple(args.rate_limit), tuple(args.call_limit), args.audit_required, tuple(args.allowed_host))
    said.limits()
    return said
