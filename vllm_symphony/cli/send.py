"""symphony send: send a message to a channel (cli/send.py).

symphony send chat "hello"                  a text
symphony send ops/jobs @job.json            a file's bytes
make-job | symphony send ops/jobs           standard input, to its end
symphony send --reply ops/triage "..."      and print what its receiver answers
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vllm_symphony.cli import letter
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.table import show_one
from vllm_symphony.client.client import Client

EXAMPLE = 'symphony send --reply ops/triage "the printer is on fire"'


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the channel: namespace/name; without a slash in your own namespace")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="the message; or @FILE; nothing: standard input")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--reply", action="store_true", help="wait for the answer, and print it")
    how.add_argument("--no-wait", action="store_true", help="fail where the channel is full (EAGAIN) instead of waiting for room")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that, as 30s or 5m (default: never)")
    parser.add_argument("--json", action="store_true", help="a JSON object: seq, num_receivers; with --reply the answer")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Options may stand between the name and the text."""
    return parser.parse_intermixed_args(words)


async def call(client: Client, args: argparse.Namespace) -> int:
    data = _data(args.text)
    if args.reply:
        letter.show(await client.request(args.name, data, timeout_s=args.timeout), as_json=args.json)
        return 0
    sent = await client.send(args.name, data, wait=not args.no_wait, timeout_s=args.timeout)
    if args.json:
        show_one(sent, as_json=True)
    elif sent.num_receivers == 0 and sys.stderr.isatty():
        print("nobody listens there now", file=sys.stderr)
    return 0


def _data(words: list[str]) -> bytes:
    if not words:
        return sys.stdin.buffer.read()
    if len(words) == 1 and words[0].startswith("@"):
        try:
            return Path(words[0][1:]).read_bytes()
        except OSError as e:
            raise SystemExit(complain(f"cannot read {words[0][1:]}: {e.strerror}")) from None
    return " ".join(words).encode()
