"""Room to work in: directories, disk, memory, ports, descriptors (cli/checks/room.py)."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vllm_symphony.abi.address import SOCKET_NAME, check_socket_path, default_run_dir
from vllm_symphony.cli import size
from vllm_symphony.cli.checks.finding import Finding, Scene
from vllm_symphony.edge.state_dir import default_state_dir
from vllm_symphony.errors import NameTooLong

_MIN_MEMORY_BYTES = 4 << 30
_MIN_DISK_BYTES, _MIN_DISK_PART = 1 << 30, 0.05
_MIN_SHARED_BYTES = 256 << 20  # vLLM's worker processes talk through it; containers have 64 MiB by default
_MIN_FILES = 4096
_PORT = 8000  # of vLLM's HTTP server
_UTILIZATION = 0.92  # vLLM's own default: of all memory, free or not


def run_dir(scene: Scene) -> Iterator[Finding]:
    path = _directory(scene, "SYMPHONY_RUN_DIR", "run-dir", default_run_dir)
    fix = "set SYMPHONY_RUN_DIR to a directory of yours with a short path"
    try:
        check_socket_path(path / SOCKET_NAME)
    except NameTooLong as e:
        yield Finding("run-directory", "broken", e.message, fix)
        return
    if server := _server_in(path):
        yield Finding(
            "run-directory", "hint", f"a server runs in {path} (process {server})", "another server needs its own --run-dir"
        )
        return
    yield from _usable("run-directory", path, fix)


def state_dir(scene: Scene) -> Iterator[Finding]:
    path = _directory(scene, "SYMPHONY_STATE_DIR", "state-dir", default_state_dir)
    yield from _usable("state-directory", path, "set SYMPHONY_STATE_DIR to a directory of yours")


def disk(scene: Scene) -> Iterator[Finding]:
    """Of the state directory: files, tokens and pages are kept there."""
    there = _existing(_directory(scene, "SYMPHONY_STATE_DIR", "state-dir", default_state_dir))
    try:
        total, _, free = shutil.disk_usage(there)
    except OSError as e:
        yield Finding("disk", "warning", f"cannot look at {there}: {e.strerror}", "look at its mount")
        return
    few = free < min(_MIN_DISK_BYTES, total) or free < total * _MIN_DISK_PART
    yield Finding("disk", "warning" if few else "ok", f"{size.shown(free)} of {size.shown(total)} free at {there}",
                  "symphony gc, a smaller --disk-cache, or SYMPHONY_STATE_DIR on another disk" if few else "")  # fmt: skip


def memory(scene: Scene) -> Iterator[Finding]:
    """What is free; and on a CPU, where the KV cache lies in it, whether vLLM will get what it asks for."""
    available, total = memory_bytes(scene)
    detail = f"{size.shown(available)} of {size.shown(total)} available"
    wanted = _kv_bytes(scene, total)
    if wanted is not None and wanted[0] > available:
        text = f"{detail}, and {wanted[1]} asks for {size.shown(wanted[0])}: vLLM will refuse to start"
        yield Finding("memory", "broken", text, "--kv-cache-memory-bytes 2G, or another size below what is available")
    elif available < _MIN_MEMORY_BYTES:
        yield Finding("memory", "warning", detail, "a smaller model, or a small --kv-cache-memory-bytes")
    else:
        yield Finding("memory", "ok", detail)


def shared_memory(scene: Scene) -> Iterator[Finding]:
    path = Path("/dev/shm")
    try:
        total, _, free = shutil.disk_usage(path)
    except OSError:
        yield Finding("shared-memory", "warning", "there is no /dev/shm", "mount a tmpfs there")
        return
    few = free < _MIN_SHARED_BYTES
    yield Finding("shared-memory", "warning" if few else "ok", f"{size.shown(free)} of {size.shown(total)} free in /dev/shm",
                  "docker run --shm-size=1g (or --ipc=host)" if few else "")  # fmt: skip


def open_files(scene: Scene) -> Iterator[Finding]:
    """The server raises its own limit up to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = hard != resource.RLIM_INFINITY and hard < _MIN_FILES
    yield Finding("open-files", "warning" if few else "ok", f"at most {hard} descriptors a process",
                  "LimitNOFILE=65536 in the unit, or docker run --ulimit nofile=65536" if few else "")  # fmt: skip


def ports(scene: Scene) -> Iterator[Finding]:
    """The ports that the launch line takes; without one, vLLM's own default, for a server that is still to be started."""
    for host, port, certain in _addresses(scene):
        if why := _taken(host, port):
            state = "broken" if certain else "hint"
            yield Finding("port", state, f"{host or '*'}:{port}: {why}", "stop who listens there, or choose another --port")
        else:
            yield Finding("port", "ok", f"{host or '*'}:{port} is free")


def memory_bytes(scene: Scene) -> tuple[int, int]:
    """Available and total; a control group's limit is all there is, and of several nodes one is (as vLLM counts on a CPU)."""
    found = _meminfo(scene.proc / "meminfo")
    available, total = found.get("MemAvailable", 0), found.get("MemTotal", 0)
    node = _meminfo(_node(scene.nodes) / "meminfo")
    if 0 < node.get("MemTotal", 0) < total:
        total = node["MemTotal"]
        free = sum(node.get(name, 0) for name in ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable"))
        available = min(available, free)
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = (int((scene.cgroup / name).read_text()) for name in (limit_file, used_file))
        except (OSError, ValueError):
            continue
        if limit < total:
            available, total = min(available, limit - used), limit
    return available, total


def _meminfo(path: Path) -> dict[str, int]:
    """Name -> bytes. A node's file has its number before each name."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {match[1]: int(match[2]) << 10 for match in re.finditer(r"(\S+):\s+(\d+) kB", text)}


def _node(nodes: Path) -> Path:
    """The memory beside the first core that we may use."""
    first = min(os.sched_getaffinity(0))
    return next((each.parent for each in nodes.glob(f"node*/cpu{first}")), nodes / "node0")


def _kv_bytes(scene: Scene, total: int) -> tuple[int, str] | None:
    """What vLLM will ask of the memory for KV on a CPU, and which setting says so. `symphony serve` takes a modest share itself."""
    flags: Mapping[str, str] = scene.line.flags if scene.line is not None else {}
    if not scene.on_cpu:
        return None
    try:
        if text := flags.get("kv-cache-memory-bytes"):
            return size.parsed(text), "--kv-cache-memory-bytes"
        if text := scene.env.get("VLLM_CPU_KVCACHE_SPACE"):
            return int(text) << 30, "VLLM_CPU_KVCACHE_SPACE"
        if not scene.is_vllms_line or "num-gpu-blocks-override" in flags:
            return None
        part = float(flags.get("gpu-memory-utilization") or _UTILIZATION)
    except (ValueError, TypeError):
        return None  # vLLM will say what is wrong with it
    return int(total * part), f"--gpu-memory-utilization {part:g} (a part of all memory, on a CPU too)"


def _directory(scene: Scene, variable: str, flag: str, default: Callable[[], Path]) -> Path:
    line = scene.line
    given = (line.flags.get(flag) if line is not None else None) or scene.env.get(variable)
    path = Path(given) if given else default()
    return path.expanduser().absolute()


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _usable(name: str, path: Path, fix: str) -> Iterator[Finding]:
    there = _existing(path)
    status = there.stat()
    if there == path and not there.is_dir():
        yield Finding(name, "broken", f"{path} is no directory", fix)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Finding(name, "broken", f"{path} cannot be {'written' if there == path else 'made'}", fix)
    elif there != path:
        yield Finding(name, "ok", f"{path} (will be made)")
    elif status.st_uid != os.geteuid():
        yield Finding(name, "broken", f"{path} belongs to user {status.st_uid}, not to you", fix)
    elif stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding(
            name,
            "hint",
            f"{path} has mode {stat.S_IMODE(status.st_mode):o}: others may look into it until a server starts",
            f"chmod 700 {path}",
        )
    else:
        yield Finding(name, "ok", str(path))


def _server_in(path: Path) -> str | None:
    """The process that holds the directory's lock."""
    try:
        with (path / "server.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(32).strip() or "?"
    except OSError:
        return None
    return None


def _addresses(scene: Scene) -> Iterator[tuple[str, int, bool]]:
    """Host, port, and whether the line will surely want it."""
    flags: Mapping[str, str] = scene.line.flags if scene.line is not None else {}
    wanted = [flags[name] for name in ("http", "listen") if ":" in flags.get(name, "") or flags.get(name, "").isdigit()]
    for text in wanted:
        host, _, port = text.rpartition(":")
        if port.isdigit() and not text.startswith("unix:"):
            yield host.strip("[]"), int(port), True
    if scene.is_vllms_line and "uds" not in flags:
        text = flags.get("port") or str(_PORT)
        if text.isdigit():
            yield flags.get("host", ""), int(text), True
    elif scene.line is None:
        yield "127.0.0.1", _PORT, False


def _taken(host: str, port: int) -> str | None:
    """Why one cannot listen there; bound for an instant and never listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            return "somebody listens there" if e.errno == errno.EADDRINUSE else (e.strerror or str(e))
    return None
