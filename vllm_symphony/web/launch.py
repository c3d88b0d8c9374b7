"""How the web process was started, and what the kernel is to be told (web/launch.py).

    symphony serve --http    web/main.py says it (`launched`), before vLLM's server begins
    vLLM's own launch line   SYMPHONY_SERVE_FLAGS holds words of `symphony serve`; that command is started beside as the gRPC edge.
                             It resolves them and says the kernel's words on its stdout; we say on its stdin how far the kernel is

In the second case the edge lives as long as this process: it ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_symphony.edge.guard import Rules
from vllm_symphony.errors import InvalidArgument

FLAGS_VARIABLE = "SYMPHONY_SERVE_FLAGS"
EDGE_START_S = 60.0

Say = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Launch:
    """`words`: the kernel host's flags; `say`: to whoever watches over the server, a message as on a host's status fd."""

    words: list[str]
    run_dir: Path
    state_dir: Path
    say: Say
    unconfined: bool = False
    rules: Rules = field(default_factory=Rules)

    @property
    def kernel_socket(self) -> str:
        return self.words[self.words.index("--socket") + 1]


launched: Launch | None = None  # by web/main.py, in this process


async def launch() -> Launch:
    """What web/main.py said, else an edge of our own is started.

    Raises: InvalidArgument: the edge refused its flags, or did not start; it has said why on our stderr.
    """
    return launched or await _start_edge()


async def _start_edge() -> Launch:
    flags = shlex.split(os.environ.get(FLAGS_VARIABLE, ""))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllm_symphony.cli.main", "serve", "--adopt", *flags,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, preexec_fn=os.setpgrp,  # uvloop knows no process_group
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    to_edge = process.stdin
    try:
        line = await asyncio.wait_for(process.stdout.readline(), EDGE_START_S)
        told = json.loads(line)
    except (TimeoutError, ValueError):
        to_edge.close()
        raise InvalidArgument(
            f"symphony's edge did not start with {FLAGS_VARIABLE}={shlex.join(flags)!r}: see its message above"
        ) from None

    def say(message: dict[str, Any]) -> None:
        to_edge.write(json.dumps(message).encode() + b"\n")

    made = Launch(told["words"], Path(told["run_dir"]), Path(told["state_dir"]), say, told["unconfined"], Rules.read(told["rules"]))
    made_beside[process.pid] = process  # else its pipes close when nobody knows it
    return made


made_beside: dict[int, asyncio.subprocess.Process] = {}
