"""The kernel host as a process: engine, kernel and reactor in one (engine/main.py).

    python -m vllm_symphony.engine.main --socket PATH --status-fd N -- [MODEL] [any vLLM engine flag]

It says on the status fd, a JSON line each, how far it is: `{"phase": ...}`, then `{"ready": {...}}` or `{"error": ..., "exit": n}`.
SIGTERM ends it with 0, SIGINT is the parent's business, and it does not outlive its parent. Exit codes: 0, 2 (arguments), 70 (the
engine died), 1 (anything else).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_symphony.engine import beside
from vllm_symphony.engine.boot import Ground, host_parser
from vllm_symphony.engine.defaults import cpu_defaults, prepare_cpu, settle_model
from vllm_symphony.errors import DeviceLost, SymphonyError
from vllm_symphony.trace.lines import begin_vllm_log

if TYPE_CHECKING:
    from vllm_symphony.kernel.effect import Device

EXIT_USAGE, EXIT_ENGINE_DIED = 2, 70

log = logging.getLogger("vllm_symphony")


class Status:
    """Says to the parent how far we are; silent when there is none."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def phase(self, text: str) -> None:
        self._say({"phase": text})

    def ready(self, info: dict[str, Any]) -> None:
        self._say({"ready": info})

    def error(self, text: str, code: int) -> None:
        self._say({"error": text, "exit": code})

    def _say(self, message: dict[str, Any]) -> None:
        if self._fd is None:
            return
        with self._lock:
            try:
                os.write(self._fd, json.dumps(message).encode() + b"\n")
            except OSError:  # the parent is gone; its death signal ends us
                self._fd = None


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    ours, vllm_words = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    args = host_parser().parse_args(ours)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    status = begin("host", args, Path(args.socket).parent)
    try:
        ground = Ground(args)
        device = make_device(args.device, vllm_words, status, ground)
    except SystemExit as e:  # vLLM's argument parser has said why
        status.error("vLLM refused the arguments (see above)", EXIT_USAGE)
        return int(e.code or 0) and EXIT_USAGE
    except (SymphonyError, ValueError, OSError) as e:
        log.exception("the engine did not start") if log.isEnabledFor(logging.DEBUG) else None
        status.error(str(e).strip() or type(e).__name__, 1)
        return 1
    return serve(device, ground, status, stop)


def begin(process: str, args: argparse.Namespace, folder: Path) -> Status:
    """What a process with an engine does first, by the host's flags: its log in `folder`, its word to the parent, its end."""
    begin_vllm_log(process, args.log_level, args.log_format, folder)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", args.log_level.upper())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    beside.end_with_parent()
    return Status(args.status_fd)


def serve(device: Device, ground: Ground, status: Status, stop: threading.Event) -> int:
    """Run a kernel over the device until `stop` is set or the engine dies."""
    died: list[BaseException] = []

    def on_death(error: BaseException) -> None:
        died.append(error)
        stop.set()

    try:
        reactor, told = ground.boot(device, status.phase, on_death)
    except (SymphonyError, ValueError, OSError) as e:
        status.error(str(e), 1)
        return 1
    status.ready(told)
    stop.wait()
    if died:
        time.sleep(0.2)  # let the ENODEV replies and exit events go out
        status.error(f"the engine died: {type(died[0]).__name__}: {died[0]}", EXIT_ENGINE_DIED)
    reactor.stop()
    return EXIT_ENGINE_DIED if died else 0


def make_device(kind: str, words: Sequence[str], status: Status, ground: Ground) -> Device:
    if kind == "sim":
        from vllm_symphony.engine.sim import SimDevice

        return SimDevice(tiers=ground.tiers)
    on_cpu = prepare_cpu()
    from vllm_symphony.engine.own import OwnHost, prepare_environment

    prepare_environment()
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="symphony serve", description="Any vLLM engine flag.")
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help="Hugging Face name or folder; default: the embedded model")
    parser.add_argument("--tool-call-parser", help="vLLM tool parser that parse_tools uses by default")
    EngineArgs.add_cli_args(parser)
    given = parser.parse_args(list(words))
    settle_model(given, words, status.phase)
    engine_args = EngineArgs.from_cli_args(given)
    engine_args.tool_call_parser = given.tool_call_parser
    if on_cpu:
        cpu_defaults(engine_args)
    return OwnHost(engine_args, progress=status.phase, tiers=ground.tiers, share=ground.share)


def leave(code: int) -> None:
    """End at once: vLLM's native modules print hundreds of harmless leak lines in an orderly interpreter exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        code = main()
    except DeviceLost:
        code = EXIT_ENGINE_DIED
    leave(code)
