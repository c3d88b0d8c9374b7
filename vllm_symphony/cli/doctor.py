"""symphony doctor: what would keep a server from working here, each with a one-line fix (cli/doctor.py).

    symphony doctor                                     this machine and what is installed
    symphony doctor Qwen/Qwen3-0.6B                     also a model
    symphony doctor -- vllm serve MODEL --port 8000     also a launch line of vLLM, with variables before it

Checks look and change nothing, and import nothing that could be broken: metadata and files are read instead (checks/site.py). So it
works where vLLM, torch or gRPC do not. What each finding means stands in docs/troubleshooting.md, by the finding's name.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict

from vllm_symphony.abi.plain import plain_lines
from vllm_symphony.cli.checks import installed, launch, machine, plugin, room
from vllm_symphony.cli.checks.finding import STATES, Finding, Scene
from vllm_symphony.cli.checks.launch_line import LaunchLine, read_line
from vllm_symphony.cli.checks.site import Site

EXAMPLE = "symphony doctor -- vllm serve Qwen/Qwen3-0.6B --port 8000"
Check = Callable[[Scene], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    installed.python, machine.linux, installed.symphony, installed.vllm, installed.vllm_command, installed.torch,
    installed.requirements, installed.packages, installed.grpc, plugin.plugins, machine.device, machine.runner,
    room.run_dir, room.state_dir, room.disk, room.memory, room.shared_memory, room.open_files, room.ports,
    machine.cores, machine.compilation, machine.cgroup, machine.autogroup, machine.confinement,
    launch.model, launch.flags,
)  # fmt: skip
DEEP: tuple[Check, ...] = (installed.imports,)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "symphony doctor [--json] [--deep] [MODEL | -- LAUNCH LINE]"
    parser.description = (
        "Look for what would keep a server from working here; nothing is changed.\n"
        "Exit code 1: something is broken. What a finding means: docs/troubleshooting.md, by its name."
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="look at this model too: a folder or a Hugging Face name")
    parser.add_argument("--json", action="store_true", help="a JSON array")
    parser.add_argument("--deep", action="store_true", help="also import vLLM in a process of its own (takes some seconds)")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """What follows `--` is a launch line and none of ours."""
    ours, line = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    args = parser.parse_args(ours)
    if line and args.model:
        parser.error(f"a model ({args.model}) and a launch line: the line names the model")
    args.line = read_line(line) if line else LaunchLine(command="symphony", model=args.model) if args.model else None
    return args


def start(args: argparse.Namespace) -> int:
    env = {**os.environ, **(args.line.env if args.line is not None else {})}
    findings = examine(Scene(env, Site(), args.line), deep=args.deep)
    if args.json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        print("\n".join(_lines(findings)))
    return 1 if any(f.state == "broken" for f in findings) else 0


def examine(scene: Scene, *, deep: bool = False) -> list[Finding]:
    """All findings, in the order of the checks."""
    return [finding for check in (CHECKS + DEEP if deep else CHECKS) for finding in _outcome(check, scene)]


def _outcome(check: Check, scene: Scene) -> list[Finding]:
    """A machine may be broken in ways that a check did not think of; the others go on."""
    try:
        return list(check(scene))
    except Exception as e:  # noqa: BLE001  see above
        detail = f"the check `{check.__name__}` failed itself: {type(e).__name__}: {e}"
        return [Finding("doctor", "warning", detail, "please report that")]


def _lines(findings: list[Finding]) -> Iterator[str]:
    width = max(len(f.name) for f in findings)
    for f in findings:
        yield plain_lines(f"{f.state:<8} {f.name:<{width}}  {f.detail}")
        if f.fix:
            yield plain_lines(f"{'':8} {'':<{width}}  fix: {f.fix}")
    count = Counter(f.state for f in findings)
    told = ", ".join(f"{count[state]} {state}" for state in reversed(STATES) if count[state])
    yield f"{told}; what each means: docs/troubleshooting.md"
