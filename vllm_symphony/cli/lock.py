"""symphony lock: lock a file, while a command runs (cli/lock.py), as flock(1) does.

    symphony lock /kb/handbook.kv -- ./rebuild.sh        nobody else writes it meanwhile
    symphony lock --shared /kb/handbook.kv               until Ctrl-C

The lock is a lease that is renewed as long as the command runs; it is gone soon after this process is, however that ends. If it is
lost all the same (the server could not be reached for so long) the command gets SIGTERM: what it does is not protected any more.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
from contextlib import suppress
from typing import Literal

from vllm_symphony import lip
from vllm_symphony.cli.command import EXIT_INTERRUPTED, complain
from vllm_symphony.cli.moment import span
from vllm_symphony.cli.operand import path
from vllm_symphony.cli.progress import progress
from vllm_symphony.client.client import Client
from vllm_symphony.errors import StaleFile
from vllm_symphony.lip.lock import Lock

EXAMPLE = "symphony lock /kb/handbook.kv -- ./rebuild.sh"
EXIT_NO_COMMAND = 127
Kind = Literal["shared", "exclusive"]
_RENEWALS = 3  # in the time of a lease


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "symphony lock [options] PATH [-- COMMAND ...]"
    parser.add_argument("path", type=path, metavar="PATH", help="the file")
    parser.add_argument(
        "-s", "--shared", action="store_true", help="others may lock it so too; default: exclusive, and nobody else writes"
    )
    parser.add_argument("-n", "--no-wait", action="store_true", help="give up at once when somebody has it")
    parser.add_argument("--timeout", type=span, metavar="TIME", help="give up after that: 30s, 10m")
    parser.add_argument(
        "--lease", type=span, default=30.0, metavar="TIME", help="how long it outlives a lost connection (default: 30s)"
    )


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """What follows -- is the command."""
    at = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:at])
    args.command = words[at + 1 :]
    if at < len(words) and not args.command:
        parser.error("no COMMAND after --")
    if args.no_wait and args.timeout is not None:
        parser.error("--timeout is how long to wait, and --no-wait does not: give one of them")
    if not args.lease > 0:
        parser.error("--lease must be above 0")
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.command and shutil.which(args.command[0]) is None:
        return complain(f"no such command: {args.command[0]}", EXIT_NO_COMMAND)
    async with client.session(name="lock", lease_s=args.lease), lip.open(args.path, write=not args.shared) as file:
        async with progress(f"waiting for {args.path}"):
            kind: Kind = "shared" if args.shared else "exclusive"
            lock = await file.lock(kind, lease_s=args.lease, wait=not args.no_wait, timeout_s=args.timeout)
        return await _hold(lock, args)


async def _hold(lock: Lock, args: argparse.Namespace) -> int:
    """Until the command has ended, or Ctrl-C; the exit code."""
    renewing = asyncio.create_task(_renew(lock, args.lease))
    process = await asyncio.create_subprocess_exec(*args.command) if args.command else None
    if process is None and sys.stderr.isatty():
        complain(f"{args.path} is locked until Ctrl-C", 0)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)  # the terminal has told the command too
    loop.add_signal_handler(signal.SIGTERM, _end, process, stop)
    ending = asyncio.create_task(process.wait() if process else stop.wait())
    lost = f"the lock of {args.path} was lost" + (f": ending {args.command[0]}" if process else "")
    try:
        await asyncio.wait([renewing, ending], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:  # the session was ended, and the lock with it
        complain(lost)
        _end(process, stop)
        raise
    if not ending.done():
        complain(lost)
        _end(process, stop)
        await ending
        await renewing  # raises by what
    renewing.cancel()
    await asyncio.wait([renewing])
    if process is None:
        return EXIT_INTERRUPTED
    code = process.returncode or 0
    return 128 - code if code < 0 else code


def _end(process: asyncio.subprocess.Process | None, stop: asyncio.Event) -> None:
    """What SIGTERM does: pass it on."""
    stop.set()
    if process is not None:
        with suppress(ProcessLookupError):
            process.terminate()


async def _renew(lock: Lock, lease_s: float) -> None:
    """Until cancelled. Raises what it was lost by; also when we were stopped for so long that somebody else may have had it."""
    held_until = _now() + lease_s
    while True:
        await asyncio.sleep(lease_s / _RENEWALS)
        began = _now()
        try:
            async with asyncio.timeout(held_until - began):
                await lock.renew()
        except TimeoutError:
            raise StaleFile(f"its lease of {lease_s:g} s ran out before it was renewed", lease_s=lease_s) from None
        held_until = began + lease_s


def _now() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
