"""symphony serve: start a server on a model (cli/serve.py).

    symphony serve                                    the embedded default model
    symphony serve Qwen/Qwen3-0.6B --max-model-len 8192     a model and any flag of vLLM's engine
    symphony serve --http 8000 Qwen/Qwen3-0.6B        vLLM's OpenAI server on the same engine (docs/openai.md)
    symphony serve --listen 127.0.0.1:50051           a door for TCP beside the unix socket (docs/security.md)

Words that are not ours go on to the engine as they are. Loading shows one line for each phase where a terminal reads it, log lines
elsewhere.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vllm_symphony.abi.address import HostPort, host_port
from vllm_symphony.cli import guarding, seeing
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.moment import duration
from vllm_symphony.cli.sched import described
from vllm_symphony.cli.size import parsed
from vllm_symphony.client.address import SOCKET_NAME, TOKEN_NAME, default_run_dir, default_socket
from vllm_symphony.errors import InvalidArgument, SymphonyError
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.kernel.sched.settings import FLAGS

EXAMPLE = "symphony serve Qwen/Qwen3-0.6B --max-model-len 8192"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "symphony serve [options] [MODEL] [any flag of vLLM's engine ...]"
    parser.description = (
        "Start a server on MODEL (a Hugging Face name or a folder; default: the embedded small one).\n"
        "Words that are not listed here go on to vLLM's engine."
    )
    parser.add_argument("--socket", metavar="PATH", type=Path, help="listen there (default: symphony.sock in the run directory)")
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="sockets, lock and log (default: $SYMPHONY_RUN_DIR, else "
                        "$XDG_RUNTIME_DIR/symphony, else ~/.symphony/run)")  # fmt: skip
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="where tokens and files are kept (default: "
                        "$SYMPHONY_STATE_DIR, else $XDG_STATE_HOME/symphony, else ~/.local/state/symphony)")  # fmt: skip
    parser.add_argument("--no-state", action="store_true", help="keep no files in the state directory: none outlives the server")
    parser.add_argument("--host-cache", metavar="SIZE", type=parsed,
                        help="memory for pages that leave the device, as 512MiB, 2GiB or 0 (default: as much as the device's "
                        "cache, but no more than an eighth of what is free)")  # fmt: skip
    parser.add_argument("--disk-cache", metavar="SIZE", type=parsed,
                        help="disk for pages that leave the device, in the state directory (default: an eighth of what is "
                        "free)")  # fmt: skip
    parser.add_argument("--disk-high-water", metavar="PART", type=_part, default=0.9,
                        help="when more of the disk than this is used, saved pages of files that were not used for the longest "
                        "time are given up (default: 0.9)")  # fmt: skip
    parser.add_argument("--weight-plain", metavar="WEIGHT", type=_weight, default=1.0,
                        help="how much of each step is plain requests' while programs want more than the rest, and the other way "
                        "round (default: 1; docs/sharing.md)")  # fmt: skip
    parser.add_argument("--weight-programs", metavar="WEIGHT", type=_weight, default=1.0,
                        help="how much of it is programs' (default: 1)")  # fmt: skip
    _policies(parser)
    parser.add_argument("--crash-at", metavar="NAME:NTH", help=argparse.SUPPRESS)  # for crash tests
    parser.add_argument("--listen", metavar="ADDRESS", action="append", default=[],
                        help="listen there too: unix:PATH, 127.0.0.1:PORT (0: a free one; callers need a token), or with TLS any "
                        "HOST:PORT; may be repeated")  # fmt: skip
    parser.add_argument("--http", metavar="[HOST:]PORT", type=_http,
                        help="serve vLLM's OpenAI API there, with programs on the same engine; MODEL may be followed by any flag "
                        "of vllm serve (default host: 127.0.0.1; port 0: a free one)")  # fmt: skip
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate chain (PEM): all TCP doors speak TLS")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key (PEM, without a passphrase)")
    parser.add_argument("--tls-client-ca", metavar="FILE", type=Path,
                        help="TCP clients need a certificate that this CA signed; where no token is sent its common name is the "
                        "principal")  # fmt: skip
    guarding.arguments(parser)
    seeing.arguments(parser)
    parser.add_argument("--tools", metavar="FILE", type=Path,
                        help="a TOML file of tools that programs may call: HTTP requests, MCP servers, Python functions; and of "
                        "who may give them to programs (docs/tools.md)")  # fmt: skip
    parser.add_argument("--confinement", choices=("A", "B", "C"), metavar="LEVEL",
                        help="do not start where programs cannot be confined at level A (fit for strangers' programs) or B (those "
                        "of your own user); C is --unconfined, for a server without TCP doors (default: start, and refuse programs "
                        "that would run below their level; `symphony doctor` shows what there is)")  # fmt: skip
    parser.add_argument("--unconfined", action="store_true",
                        help="do not confine programs: every principal with scope run runs them with all your rights")  # fmt: skip
    parser.add_argument("--trusted", action="append", default=[], metavar="NAME",
                        help="a principal, or owner/name of an installed program: with `--runtime trusted` such programs run in "
                        "the server's own process, confined by nothing (docs/programs.md); may be repeated "
                        "(default: none)")  # fmt: skip
    parser.add_argument("--grace", metavar="SECONDS", type=float, default=5.0,
                        help="when asked to stop, let calls in flight go on that long (default: 5)")  # fmt: skip
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"),
                        help="show the server's and the engine's log from this level on; without it a terminal sees progress only "
                        "and the engine's log goes to kernel.log in the run directory")  # fmt: skip
    parser.add_argument("--adopt", action="store_true", help=argparse.SUPPRESS)  # vLLM's own launch line starts us: web/launch.py
    parser.add_argument("--device", choices=("engine", "sim"), default="engine", help=argparse.SUPPRESS)


def _policies(parser: argparse.ArgumentParser) -> None:
    """A flag for each level of scheduling, with all that it may say."""
    group = parser.add_argument_group(
        "scheduling",
        f"NAME or NAME:PARAMETER=NUMBER,... (docs/scheduling.md); `symphony sched` shows and changes it.\n{described()}",
    )
    for level, flag in FLAGS.items():
        group.add_argument(flag, dest=f"{level}_policy", metavar="POLICY", type=partial(_policy, level),
                           help=f"{catalogue.DECIDES[level]} (default: {catalogue.DEFAULTS[level]})")  # fmt: skip


def _policy(level: str, text: str) -> str:
    """A policy that a server has, for argparse."""
    try:
        catalogue.parsed(level, text)
    except SymphonyError as e:
        raise argparse.ArgumentTypeError(e.message) from None
    return text


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Ours are taken out, the rest stays in order."""
    args, rest = parser.parse_known_args(words)
    args.model_args = tuple(word for i, word in enumerate(rest) if not (word == "--" and i == 0))
    return args


def start(args: argparse.Namespace) -> int:
    from vllm_symphony.edge.state_dir import default_state_dir
    from vllm_symphony.edge.tls import server_tls
    from vllm_symphony.node import Settings, serve

    _settle_confinement(args)
    for name in ("SYMPHONY_TOKEN", "SYMPHONY_TOKEN_FILE"):  # a client's; the host and what it starts have no use for it
        os.environ.pop(name, None)
    run_dir = (args.run_dir or default_run_dir()).expanduser().absolute()
    chosen_dir = args.run_dir is not None
    socket = args.socket or (run_dir / SOCKET_NAME if chosen_dir else default_socket())
    is_terminal = sys.stderr.isatty() and not args.adopt
    level = args.log_level or ("warning" if is_terminal else "info")
    seeing.begin(args, level)
    settings = Settings(
        run_dir=run_dir,
        socket=socket,
        model_args=args.model_args,
        host_flags=_host_flags(args, level),
        host_log=run_dir / "kernel.log" if is_terminal and args.log_level is None else None,
        grace_s=args.grace,
        listen=tuple(args.listen),
        tls=server_tls(args.tls_cert, args.tls_key, args.tls_client_ca),
        state_dir=(args.state_dir or default_state_dir()).expanduser().absolute(),
        keeps_files=not args.no_state,
        unconfined=args.unconfined,
        http=args.http,
        is_adopted=args.adopt,
        rules=guarding.rules(args),
        seen=seeing.seen(args),
    )
    token = run_dir / TOKEN_NAME
    return serve(settings, _Terminal(args.unconfined, token) if is_terminal else _Log(args.unconfined, token))


def _settle_confinement(args: argparse.Namespace) -> None:
    """`--confinement C` means `--unconfined`, but not where strangers' tokens can come in."""
    if args.confinement == "C":
        if any(not address.startswith("unix:") for address in args.listen):
            raise InvalidArgument("programs of whoever has a token would run with your rights: say --unconfined if you mean that")
        args.unconfined, args.confinement = True, None
    if args.unconfined and args.confinement:
        raise InvalidArgument(f"--unconfined and --confinement {args.confinement}: choose one")


def _said(info: dict[str, Any], unconfined: bool) -> str:
    """How programs are confined, for whoever starts the server."""
    if unconfined:
        return "programs are not confined: whoever has scope run starts them with your rights (--unconfined)"
    found = info.get("confinement", {})
    level, layers = found.get("level", "C"), ", ".join(found.get("active", ()))
    who = {"A": "whoever has scope run may start them", "B": "only your own user may start them"}.get(
        level, "nobody may start them"
    )
    lacks = f"; missing: {found['lacks']}" if found.get("lacks") else ""
    return f"programs are confined at level {level} ({layers or 'nothing'}): {who}{lacks}"


def _http(text: str) -> HostPort:
    """PORT or HOST:PORT, for argparse."""
    try:
        return host_port(text if ":" in text else f"127.0.0.1:{text}").literal
    except InvalidArgument as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _part(text: str) -> float:
    """A part of a whole, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a whole (above 0, at most 1)")
    return value


def _weight(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0 < value < float("inf")):
        raise argparse.ArgumentTypeError(f"{text!r} is no weight: a number above 0")
    return value


def _host_flags(args: argparse.Namespace, level: str) -> tuple[str, ...]:
    given = {
        "--log-level": level,
        "--log-format": args.log_format,
        "--host-cache-bytes": None if args.host_cache is None else str(args.host_cache),
        "--disk-cache-bytes": None if args.disk_cache is None else str(args.disk_cache),
        "--disk-high-water": str(args.disk_high_water),
        "--weight-plain": str(args.weight_plain),
        "--weight-programs": str(args.weight_programs),
        **{flag: getattr(args, f"{level}_policy") for level, flag in FLAGS.items()},
        "--device": args.device,
        "--confinement": args.confinement,
        "--tools": None if args.tools is None else str(args.tools.expanduser().absolute()),
        "--crash-at": args.crash_at,
    }
    words = tuple(word for name, value in given.items() if value is not None for word in (name, value))
    words += tuple(word for name in args.trusted for word in ("--trusted", name))
    return (*words, "--unconfined") if args.unconfined else words


def _http_of(info: dict[str, Any]) -> tuple[str, ...]:
    """Where vLLM's server listens, if there is one."""
    return (str(info["http"]),) if "http" in info else ()


def _of_http(info: dict[str, Any], token: Path) -> tuple[str, ...]:
    """What else to know of it: the live page, and that tokens may be read on the way."""
    said = [f"live page: {url}/symphony/ (a token of yours is the first line of {token})" for url in _http_of(info)]
    for scheme, _, address in (url.partition("://") for url in _http_of(info)):
        if scheme == "http" and not host_port(address).is_loopback:
            said.append(f"anybody on the way to {address} can read tokens: give --tls-cert and --tls-key, or a proxy that has TLS")
    return tuple(said)


class _Terminal:
    """Progress for a person: one line for each phase, with how long it took."""

    def __init__(self, unconfined: bool, token: Path) -> None:
        self._unconfined = unconfined
        self._token = token
        self._addresses: Sequence[str] = ()
        self._began = self._phase_began = time.monotonic()
        self._phase = ""

    def listening(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    def phase(self, text: str) -> None:
        self._end_phase()
        self._phase, self._phase_began = text, time.monotonic()
        print(f"{text} ...", end="", flush=True, file=sys.stderr)

    def ready(self, info: dict[str, Any]) -> None:
        self._end_phase()
        model = f"{info['model']} " if isinstance(info.get("model"), str) else ""
        where = ", ".join((*self._addresses, *_http_of(info)))
        print(f"{model}ready after {duration(time.monotonic() - self._began)}, listening on {where}", file=sys.stderr)
        print(_said(info, self._unconfined), *_of_http(info, self._token), sep="\n", file=sys.stderr)
        print("try: symphony run FILE   (Ctrl-C stops the server)", file=sys.stderr)

    def stopping(self, grace_s: float) -> None:
        self._end_phase()
        print(f"\rstopping: calls in flight get {grace_s:g} s (Ctrl-C again stops at once)", file=sys.stderr)

    def failed(self, message: str) -> None:
        self._end_phase()
        complain(message)

    def _end_phase(self) -> None:
        if self._phase:
            print(f"\r{self._phase:<40} {duration(time.monotonic() - self._phase_began)}", file=sys.stderr)
            self._phase = ""


class _Log:
    """Progress for a log."""

    def __init__(self, unconfined: bool, token: Path) -> None:
        self._unconfined = unconfined
        self._token = token
        self._addresses: Sequence[str] = ()
        self._log = logging.getLogger("symphony")

    def listening(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    def phase(self, text: str) -> None:
        self._log.info("%s", text)

    def ready(self, info: dict[str, Any]) -> None:
        self._log.info("ready, listening on %s", ", ".join((*self._addresses, *_http_of(info))))
        for line in (_said(info, self._unconfined), *_of_http(info, self._token)):
            self._log.info("%s", line)

    def stopping(self, grace_s: float) -> None:
        self._log.info("stopping: calls in flight get %g s", grace_s)

    def failed(self, message: str) -> None:
        complain(message)
