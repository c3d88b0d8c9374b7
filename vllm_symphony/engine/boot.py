"""From the flags of a kernel host to a running kernel (engine/boot.py): the same for every host.

    words --host_parser--> args --Ground: tools, state directory, confinement--> [the host loads its device] --boot--> Reactor

What the operator got wrong is found before anything is loaded.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_symphony import __version__
from vllm_symphony.abi.user import own_user
from vllm_symphony.engine.confinement import NONE, Confinement, Probe
from vllm_symphony.engine.share import Share
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.kernel.sched.settings import FLAGS
from vllm_symphony.store import point
from vllm_symphony.store.state import StateDirectory
from vllm_symphony.trace.lines import FORMATS, TEXT

if TYPE_CHECKING:
    from vllm_symphony.engine.reactor import Reactor
    from vllm_symphony.engine.storage import Storage
    from vllm_symphony.kernel.effect import Device
    from vllm_symphony.tools.config import Config

log = logging.getLogger("vllm_symphony")


def host_parser() -> argparse.ArgumentParser:
    """What a kernel host is told beside the model; `symphony serve` makes these words from its own flags."""
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
    parser.add_argument("--weight-plain", type=float, default=1.0, help="of plain requests beside programs (engine/share.py)")
    parser.add_argument("--weight-programs", type=float, default=1.0, help="of programs beside plain requests")
    for level, flag in FLAGS.items():
        parser.add_argument(flag, dest=f"{level}_policy", help=f"{catalogue.DECIDES[level]} (kernel/sched/catalogue.py)")
    parser.add_argument("--crash-at", metavar="NAME:NTH", help=argparse.SUPPRESS)  # for crash tests: store/point.py
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--log-format", choices=FORMATS, default=TEXT, help="json: one object a line")
    return parser


class Ground:
    """What the kernel will stand on, checked. The probe of the confinement runs on while the device loads."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Raises: InvalidArgument, NoSuchFile, ... for the tools' file, weights and policies; what StateDirectory raises."""
        self._args = args
        self.share = Share(args.weight_plain, args.weight_programs)
        given = {level: getattr(args, f"{level}_policy") for level in FLAGS}
        self.policies = tuple(catalogue.parsed(level, text) for level, text in given.items() if text is not None)
        self._probe = None if args.unconfined else Probe()
        self.tools = load_tools(args.tools)
        self.directory = StateDirectory(args.state_dir) if args.state_dir is not None else None
        pages = self.directory.pages if self.directory is not None else None
        self.tiers = TierLimits(args.host_cache_bytes, args.disk_cache_bytes, pages)
        if args.crash_at:
            point.kill_at(args.crash_at)

    def boot(
        self, device: Device, phase: Callable[[str], None], on_death: Callable[[BaseException], None]
    ) -> tuple[Reactor, dict[str, Any]]:
        """Start a kernel over the device; also what is told of it when it is ready. Nothing of it is left after an error.

        Raises: NotSupported where programs cannot be confined as demanded; what the store and the tools raise.
        """
        confinement = self._confinement()
        try:
            self._demand(confinement)
            storage = open_storage(self.directory, device, self._args.disk_high_water)
        except BaseException:
            device.stop()
            raise
        reactor = self._reactor(device, storage, confinement, phase, on_death)
        m = device.model
        return reactor, {
            "model": m.name, "vocab_size": m.vocab_size, "max_positions": m.max_positions, "pages": m.num_pages,
            "page_size": m.page_size, "dtype": m.dtype, "confinement": confinement.told(), **versions(),
        }  # fmt: skip

    def _confinement(self) -> Confinement:
        return self._probe.result() if self._probe is not None else NONE

    def _demand(self, found: Confinement) -> None:
        demand = self._args.confinement
        if demand and not found.meets(demand):
            raise NotSupported(found.shortfall(demand))

    def _reactor(
        self,
        device: Device,
        storage: Storage,
        confinement: Confinement,
        phase: Callable[[str], None],
        on_death: Callable[[BaseException], None],
    ) -> Reactor:
        from vllm_symphony.engine.image import image
        from vllm_symphony.engine.reactor import Reactor
        from vllm_symphony.kernel.kernel import Kernel

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

        seed = int.from_bytes(os.urandom(6), "little")
        kernel = Kernel(device.model, seed=seed, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns(), info=info)
        kernel.may_trust = frozenset(self._args.trusted).__contains__
        kernel.image = image()
        for policy in self.policies:
            kernel.set_policy(policy.level, policy.name, dict(policy.parameters))
        reactor = Reactor(
            kernel, device, store=storage, socket_path=self._args.socket, principal=own_user(),
            confined=not self._args.unconfined, tools=self.tools, on_death=on_death,
        )  # fmt: skip
        try:
            if storage.is_lasting:
                phase("reading the files")
                kernel.restore(storage.load(), time.monotonic_ns())
                for lost in kernel.registry.damaged.values():
                    log.error("the program %s@%s is damaged on the disk and not there: install it again", lost.name, lost.version)
                for kept in kernel.sched.unknown:
                    log.warning("the %s policy %s was set and is not there in this version: another decides", kept.level, kept.name)
            reactor.start()
            if reactor.tools is not None:
                phase("starting the tools")
                reactor.tools.wait_ready()
        except BaseException:
            reactor.stop()
            device.stop()
            raise
        return reactor


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
