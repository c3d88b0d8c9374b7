"""Paths on the command line, and what is done to several of them (cli/operand.py).

A path may end in "/", as a shell's completion leaves it. What fails for one path is told, and the others are gone on with, as the
tools of these names do; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict

from vllm_symphony.abi.types import FileStat
from vllm_symphony.cli.command import complain
from vllm_symphony.client.client import Client
from vllm_symphony.errors import NoSuchFile, SymphonyError


def path(text: str) -> str:
    """An absolute path, without slashes at its end; for argparse."""
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no path: it must begin with '/'")
    return text.rstrip("/") or "/"


def name_of(text: str) -> str:
    """The last part of a path."""
    return text.rpartition("/")[2]


def below(directory: str, name: str) -> str:
    """The path of `name` in a directory."""
    return f"{directory.rstrip('/')}/{name}"


async def change(paths: Iterable[str], do: Callable[[str], Awaitable[object]]) -> tuple[list[str], int]:
    """Do it to each; gives those for which it went well, and the exit code."""
    done, code = [], 0
    for one in paths:
        try:
            await do(one)
            done.append(one)
        except SymphonyError as e:
            code = complain(str(e))
    return done, code


async def show_changed(client: Client, paths: Iterable[str]) -> None:
    """With --json: what is there now, as `stat --json` shows it."""
    print(json.dumps([asdict(await client.stat(one)) for one in paths], indent=2))


async def stat_if_there(client: Client, one: str) -> FileStat | None:
    """None where nothing has the name."""
    try:
        return await client.stat(one)
    except NoSuchFile:
        return None


async def destinations(client: Client, sources: list[str], target: str) -> list[tuple[str, str]]:
    """As cp and mv understand their words: into `target` if that is a directory, else one source to `target`. Raises SystemExit."""
    there = await stat_if_there(client, target)
    if there is not None and there.kind == "dir":
        return [(source, below(target, name_of(source))) for source in sources]
    if len(sources) > 1:
        raise SystemExit(complain(f"{target} is no directory, and {len(sources)} things are to go there", 2))
    return [(sources[0], target)]
