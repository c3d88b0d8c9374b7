"""One command, from its words to its exit code (cli/command.py).

A command is a module of this folder with

    EXAMPLE                         shown at the end of its help
    arguments(parser)               declares what it takes
    async call(client, args)        talks to a server;  or  start(args): does not.  Gives the exit code
                                    with both, --from FILE (args.source) means start
    parse(parser, words) -> args    where the words need more than argparse (run, serve)

Exit codes: 0 ok, 1 an error of the machine, 2 wrong usage, 69 no server to talk to, 130 Ctrl-C; `run` ends with its program's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from vllm_symphony.abi.plain import plain_lines
from vllm_symphony.errors import SymphonyError, WouldBlock

if TYPE_CHECKING:
    from vllm_symphony.client.client import Client

EXIT_ERROR, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 2, 69, 130
_POLL_S = 0.2


def run(command: ModuleType, name: str, summary: str, words: list[str]) -> int:
    """Parse the words and do it; whatever goes wrong becomes one line and an exit code."""
    parser = argparse.ArgumentParser(
        prog=f"symphony {name}",
        description=f"{summary.capitalize()}.",
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    try:
        command.arguments(parser)
        if hasattr(command, "call"):
            server_arguments(parser)
        args = command.parse(parser, words) if hasattr(command, "parse") else parser.parse_args(words)
        talks = hasattr(command, "call") and getattr(args, "source", None) is None
        return _with_server(command.call, args) if talks else int(command.start(args))
    except SystemExit as e:  # argparse said what is wrong, or printed the help
        return int(e.code or 0)
    except SymphonyError as e:
        return complain(str(e))
    except BrokenPipeError:  # of our own output, no server's
        raise
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] == "vllm_symphony":
            raise
        return complain(
            f"{e.name} is not installed: pip install 'vllm-symphony[cpu]' or [gpu] (symphony doctor shows what is missing)"
        )
    except ConnectionError as e:
        hint = " (start one with: symphony serve)" if "nobody listens" in str(e) else ""
        return complain(f"{e}{hint}", EXIT_UNREACHABLE)


def complain(message: str, code: int = EXIT_ERROR) -> int:
    """One line on stderr; gives the exit code back. The message may hold words of a program."""
    sys.stdout.flush()
    print(f"symphony: {plain_lines(message)}", file=sys.stderr)
    return code


def natural(text: str) -> int:
    """0, 1, 2, ...; for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def server_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the server is, and who talks to it."""
    server = parser.add_argument_group(
        "server", "No option takes a token itself: `ps` of the system would show it. SYMPHONY_TOKEN or a file holds it."
    )
    where = server.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="ADDRESS", help="unix:PATH, HOST:PORT or grpcs://HOST:PORT (default: $SYMPHONY_SERVER)")
    where.add_argument("--socket", metavar="PATH", help="its unix socket (default: $SYMPHONY_SOCKET, else the run directory's)")
    server.add_argument("--token-file", metavar="FILE", help="your token is its first line (default: $SYMPHONY_TOKEN_FILE)")
    server.add_argument("--tls-ca", metavar="FILE", help="trust this CA (default: $SYMPHONY_TLS_CA, else the system's)")
    server.add_argument("--tls-cert", metavar="FILE", help="your certificate, for a server that asks (default: $SYMPHONY_TLS_CERT)")
    server.add_argument("--tls-key", metavar="FILE", help="its key (default: $SYMPHONY_TLS_KEY)")
    server.add_argument(
        "--wait", metavar="SECONDS", type=float, default=0.0, help="wait that long for a server that is not ready yet (default: 0)"
    )


def _with_server(call: Callable[[Client, argparse.Namespace], Awaitable[int]], args: argparse.Namespace) -> int:
    import asyncio

    from vllm_symphony.client.channel import Tls
    from vllm_symphony.client.client import connect
    from vllm_symphony.client.token import token_in

    def reach() -> Client:
        ca, cert, key = args.tls_ca, args.tls_cert, args.tls_key
        token = token_in(Path(args.token_file)) if args.token_file else None
        target = args.server or (Path(args.socket) if args.socket else None)
        return connect(target, token=token, tls=Tls(ca, cert, key) if ca or cert or key else None)

    async def talk() -> int:
        deadline = time.monotonic() + args.wait
        while args.wait:
            try:
                async with reach() as client:  # a new one: a channel that failed waits before it tries again
                    await client.ping()
                break
            except (ConnectionError, WouldBlock):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)
        async with reach() as client:
            return await call(client, args)

    return asyncio.run(talk())
