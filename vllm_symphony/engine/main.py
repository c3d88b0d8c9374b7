"""The kernel host as a process: engine, kernel and reactor in one (engine/main.py).

    python -m vllm_symphony.engine.main --socket PATH --status-fd N -- [MODEL] [any vLLM engine flag]

It says on the status fd, a JSON line each, how far it is: `{"phase": ...}`, then `{"ready": {...}}` or `{"error": ..., "exit": n}`.
SIGTERM ends it with 0, SIGINT is the parent's business, and it does not outlive its parent. Exit codes: 0, 2 (arguments), 70 (the
engine died), 1 (anything else).
"""

from __future__ import annotations

import argparse
import ctypes
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

from vllm_symphony import __version__
from vllm_symphony.abi.user import own_user
from vllm_symphony.engine.confinement import NONE, Confinement, Probe
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import DeviceLost, NotSupported, SymphonyError
from vllm_symphony.store import point
from vllm_symphony.store.state import StateDirectory

if TYPE_CHECKING:
    from vllm_symphony.engine.storage import Storage
    from vllm_symphony.kernel.effect import Device
    from vllm_symphony.tools.config import Config

EXIT_USAGE, EXIT_ENGINE_DIED = 2, 70
PR_SET_PDEATHSIG = 1
DEFAULT_KV_CACHE_BYTES = 2 << 30
DEFAULT_PAGE_SIZE = 32

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
    parser = argparse.ArgumentParser(prog="symphony-host", description=__doc__)
    parser.add_argument("--socket", required=True, help="unix socket to serve the kernel on")
    parser.add_argument("--status-fd", type=int, help="where to say how far we are")
    parser.add_argument("--device", choices=("engine", "sim"), default="engine")
    parser.add_argument("--state-dir", type=Path, help="where files are kept; without it none outlives the server")
    parser.add_argument("--host-cache-bytes", type=int, help="memory for pages that leave the device (engine/tier.py)")
    parser.add_argument("--disk-cache-bytes", type=int, help="disk for pages that leave the device, in the state directory")
    parser.add_argument("--disk-high-water", type=float, default=0.9, help="part of the disk above which gc gives up saved pages")
    parser.add_argument("--confinement", choices=("A", "B"), help="do not start where programs cannot be confined as far")
    parser.add_argument("--unconfined", action="store_true", help="run programs without confinement")
    parser.add_argument("--tools", type=Path, help="the operator's file of tools (docs/tools.md)")
    parser.add_argument("--trusted", action="append", default=[], help="whose programs may run in this process: engine/trusted.py")
    parser.add_argument("--crash-at", metavar="NAME:NTH", help=argparse.SUPPRESS)  # for crash tests: store/point.py
    parser.add_argument("--log-level", default="warning")
    args = parser.parse_args(ours)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", args.log_level.upper())
    status = Status(args.status_fd)
    probe = None if args.unconfined else Probe()  # it runs while the engine starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        tools = load_tools(args.tools)
        directory = StateDirectory(args.state_dir) if args.state_dir is not None else None
        pages = directory.pages if directory is not None else None
        limits = TierLimits(args.host_cache_bytes, args.disk_cache_bytes, pages)
        if args.crash_at:
            point.kill_at(args.crash_at)
        device = make_device(args.device, vllm_words, status, limits)
        storage = open_storage(directory, device, args.disk_high_water)
        confinement = probe.result() if probe is not None else NONE
        if args.confinement and not confinement.meets(args.confinement):
            raise NotSupported(confinement.shortfall(args.confinement))
    except SystemExit as e:  # vLLM's argument parser has said why
        status.error("vLLM refused the arguments (see above)", EXIT_USAGE)
        return int(e.code or 0) and EXIT_USAGE
    except (SymphonyError, ValueError, OSError) as e:
        log.exception("the engine did not start") if log.isEnabledFor(logging.DEBUG) else None
        status.error(str(e).strip() or type(e).__name__, 1)
        return 1
    return serve(
        device, storage, args.socket, status, stop, confinement, confined=not args.unconfined, tools=tools, trusted=args.trusted
    )


def serve(
    device: Device,
    storage: Storage,
    socket_path: str,
    status: Status,
    stop: threading.Event,
    confinement: Confinement,
    *,
    confined: bool = True,
    tools: Config | None = None,
    trusted: Sequence[str] = (),
) -> int:
    """Run the kernel over the device until `stop` is set or the engine dies. `trusted`: principals, and names of the registry."""
    from vllm_symphony.engine.image import image
    from vllm_symphony.engine.reactor import Reactor
    from vllm_symphony.kernel.kernel import Kernel

    died: list[BaseException] = []

    def on_death(error: BaseException) -> None:
        died.append(error)
        stop.set()

    started_s = time.time()

    def info() -> dict[str, Any]:
        return {
            "version": __version__,
            "started_s": started_s,
            "pid": os.getpid(),
            "engine": device.counters(),
            "store": storage.counters(),
            "confinement": confinement.told(),
            **versions(),
        }

    kernel = Kernel(
        device.model, seed=int.from_bytes(os.urandom(6), "little"), boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns(), info=info
    )
    kernel.may_trust = frozenset(trusted).__contains__
    kernel.image = image()
    reactor = Reactor(
        kernel, device, store=storage, socket_path=socket_path, principal=own_user(), confined=confined, tools=tools,
        on_death=on_death,
    )  # fmt: skip
    try:
        if storage.is_lasting:
            status.phase("reading the files")
            kernel.restore(storage.load(), time.monotonic_ns())
            for lost in kernel.registry.damaged.values():
                log.error("the program %s@%s is damaged on the disk and not there: install it again", lost.name, lost.version)
        reactor.start()
        if reactor.tools is not None:
            status.phase("starting the tools")
            reactor.tools.wait_ready()
    except SymphonyError as e:
        status.error(str(e), 1)
        reactor.stop()
        device.stop()
        return 1
    m = device.model
    status.ready(
        {"model": m.name, "vocab_size": m.vocab_size, "max_positions": m.max_positions, "pages": m.num_pages,
         "page_size": m.page_size, "dtype": m.dtype, "confinement": confinement.told(), **versions()}
    )  # fmt: skip
    stop.wait()
    if died:
        time.sleep(0.2)  # let the ENODEV replies and exit events go out
        status.error(f"the engine died: {type(died[0]).__name__}: {died[0]}", EXIT_ENGINE_DIED)
    reactor.stop()
    return EXIT_ENGINE_DIED if died else 0


def load_tools(path: Path | None) -> Config | None:
    """The operator's file, checked before anything is loaded; its secrets leave our environment. Raises InvalidArgument."""
    if path is None:
        return None
    from vllm_symphony.tools.config import load

    return load(path.absolute()).taking(os.environ)


def open_storage(directory: StateDirectory | None, device: Device, high_water: float) -> Storage:
    """The store over the state directory, or in memory; it knows the device's pages and words."""
    from vllm_symphony.engine.storage import Storage, StorageCore

    m = device.model
    return Storage(
        StorageCore(directory, fingerprint=m.fingerprint, page_bytes=m.page_bytes, decode=device.decode, high_water=high_water)
    )


def versions() -> dict[str, str]:
    """What runs here, without importing what does not."""
    found = {"python": sys.version.split()[0]}
    for name in ("vllm", "torch"):
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "?"))
    return found


def make_device(kind: str, words: Sequence[str], status: Status, limits: TierLimits) -> Device:
    if kind == "sim":
        from vllm_symphony.engine.sim import SimDevice

        return SimDevice(tiers=limits)
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
    named = given.model_tag or (given.model if any(w == "--model" or w.startswith("--model=") for w in words) else None)
    if named is None:
        from vllm_symphony.model import ensure_default_model

        named = str(ensure_default_model(progress=status.phase))
        given.served_model_name = given.served_model_name or ["SmolLM2-135M-Instruct"]
    given.model = named
    engine_args = EngineArgs.from_cli_args(given)
    engine_args.tool_call_parser = given.tool_call_parser
    if on_cpu:
        cpu_defaults(engine_args)
    return OwnHost(engine_args, progress=status.phase, tiers=limits)


def prepare_cpu() -> bool:
    """Without a GPU: thread count and JIT settings that vLLM reads at import. True when the CPU will compute."""
    if any(os.path.exists(p) for p in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    # one core for the edge and the programs: OpenMP threads that spin on a core which others use make steps 10 times slower
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores - 1)))
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # a compiled op saves nothing measurable here and costs seconds at start
    return True


def cpu_defaults(engine_args: Any) -> None:
    """On a CPU vLLM would take most of the machine's memory for KV; a fixed, modest share unless the operator said otherwise."""
    unset = engine_args.kv_cache_memory_bytes is None and engine_args.num_gpu_blocks_override is None
    if unset and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        engine_args.kv_cache_memory_bytes = min(DEFAULT_KV_CACHE_BYTES, free // 4)
    if engine_args.block_size is None:
        engine_args.block_size = DEFAULT_PAGE_SIZE


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
