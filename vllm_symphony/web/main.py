"""vLLM's OpenAI server with the kernel in its engine, as `symphony serve --http` starts it (web/main.py).

    python -m vllm_symphony.web.main --http HOST:PORT --run-dir DIR --tokens DIR <host flags> -- [MODEL] [any flag of vllm serve]

It speaks on the status fd as any host (engine/main.py): phases, then {"ready": {...}} when HTTP answers, or {"error": ...}. SIGTERM
ends it, SIGINT is the parent's business, and it does not outlive its parent.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vllm_symphony.abi.address import HostPort, host_port
from vllm_symphony.edge.guard import Rules
from vllm_symphony.engine.boot import host_parser
from vllm_symphony.engine.defaults import cpu_defaults, prepare_cpu, settle_model
from vllm_symphony.engine.main import EXIT_USAGE, Status, begin, leave
from vllm_symphony.engine.seats import ON_BY_DEFAULT, PLUGIN
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.web import launch
from vllm_symphony.web.connection import Connection
from vllm_symphony.web.plugin import StartFailed

LOOK_S = 0.02  # how often it is asked whether HTTP answers


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    ours, vllm_words = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="symphony-web", description=__doc__)
    parser.add_argument("--http", required=True, help="HOST:PORT of the HTTP door; port 0: a free one")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the server's own token lies")
    parser.add_argument("--tokens", type=Path, required=True, help="the state directory that has the token file")
    parser.add_argument("--rules", type=Rules.read, default=Rules(), help="how fast, and what is recorded, as Rules.text wrote it")
    args, host_words = parser.parse_known_args(ours)
    host = host_parser().parse_args(host_words)
    status = begin("web", host, args.run_dir)
    kept = launch.launched = launch.Launch(host_words, args.run_dir, args.tokens, lambda _: None, host.unconfined, args.rules)
    try:
        import uvloop

        return uvloop.run(_serve(_vllm_args(vllm_words, host_port(args.http), host.log_level, status), kept, status))
    except StartFailed as e:
        status.error(e.message, 1)
        return 1
    except SystemExit as e:  # vLLM's argument parser has said why
        status.error("vLLM refused the arguments (see above)", EXIT_USAGE)
        return int(e.code or 0) and EXIT_USAGE
    except KeyboardInterrupt:  # vLLM's word for SIGTERM while it starts
        return 0
    except Exception as e:  # the process's boundary: whoever watches hears it
        logging.getLogger("vllm_symphony").debug("the server ended", exc_info=True)
        status.error(getattr(e, "message", str(e)).strip() or type(e).__name__, 1)
        return 1


def name_plugin() -> None:
    """Name ours in VLLM_PLUGINS. Unset it means all plugins; set, only those named: so all others are named too."""
    named = os.environ.get("VLLM_PLUGINS")
    if named is None:
        named = ",".join(sorted({e.name for group in ON_BY_DEFAULT for e in entry_points(group=group)}))
    if PLUGIN not in named.split(","):
        named = f"{named},{PLUGIN}".strip(",")
    os.environ["VLLM_PLUGINS"] = named


def _vllm_args(words: Sequence[str], where: HostPort, log_level: str, status: Status) -> Any:
    """What vLLM's server gets: the user's words, our address, modest settings where there is no GPU."""
    on_cpu = prepare_cpu()
    name_plugin()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    status.phase("importing vllm")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="symphony serve --http", description="Any flag of vllm serve."))
    args = parser.parse_args(list(words))
    settle_model(args, words, status.phase)
    args.host, args.port = where.host, where.port
    if not any(word.startswith("--uvicorn-log-level") for word in words):
        args.uvicorn_log_level = log_level
    if on_cpu:
        cpu_defaults(args)
    validate_parsed_serve_args(args)
    return args


async def _serve(args: Any, kept: launch.Launch, status: Status) -> int:
    """Run vLLM's server; say "ready" once HTTP answers."""
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.launcher import setup_server

    def stop_the_start(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop_the_start)  # uvicorn's handler takes its place when it runs
    status.phase("loading the model")
    try:
        listening_on, sock = setup_server(args, reuse_port=False)
    except OSError as e:
        raise InvalidArgument(f"cannot listen on http://{HostPort(args.host, args.port)}: {e.strerror or e}") from None
    host, port = sock.getsockname()[:2]
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def say(message: dict[str, Any]) -> None:
        if "ready" in message:
            told.set_result(message["ready"])
        elif "phase" in message:
            status.phase(message["phase"])

    kept.say = say

    async def announce() -> None:
        ready = await told
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(LOOK_S)
                continue
            writer.close()
            scheme = "https" if args.ssl_certfile else "http"
            status.ready({**ready, "http": f"{scheme}://{HostPort(host, port)}"})
            return

    announcing = asyncio.create_task(announce())
    try:
        await run_server_worker(listening_on, sock, args, http=Connection)
    finally:
        announcing.cancel()
    return 0


if __name__ == "__main__":
    leave(main())
