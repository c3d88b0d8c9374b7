"""The sdist and the wheel, and virtual environments with the wheel in them.

    copy of the package --build backend--> sdist --unpacked, build backend--> wheel --pip install--> environments

An environment is made by a plain `pip install WHEEL` and kept in pytest's cache as long as the wheel asks for the same packages;
into one that is there only the wheel itself is put anew. Nothing of the checkout is on its path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SOURCES = ("vllm_symphony", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker builds, once."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("wheel"))
            item.add_marker(pytest.mark.timeout(300))


@dataclass(frozen=True)
class Built:
    """What a release is made of."""

    sdist: Path
    wheel: Path

    def files(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as packed:
            return set(packed.namelist())

    def text(self, ending: str) -> str:
        """The one file whose name ends so."""
        with zipfile.ZipFile(self.wheel) as packed:
            (name,) = [name for name in packed.namelist() if name.endswith(ending)]
            return packed.read(name).decode()


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel in it."""

    folder: Path
    home: Path

    def run(self, *words: str, wanted: int | None = 0) -> subprocess.CompletedProcess[str]:
        """One of its commands, as a user who has nothing else."""
        done = subprocess.run(self.command(*words), env=self.env, cwd=self.home, capture_output=True, text=True, timeout=120)
        assert wanted is None or done.returncode == wanted, done.stdout + done.stderr
        return done

    def command(self, name: str, *words: str) -> list[str]:
        return [str(self.folder / "bin" / name), *words]

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "SYMPHONY_RUN_DIR": str(self.home / "run"), "LANG": "C.UTF-8"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in _SOURCES:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, source / name)
    _backend(source, "build_sdist", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _backend(unpacked, "build_wheel", folder)
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="session")
def environment(
    built: Built, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Environment]:
    """Gives the environment of an extra; '' is the wheel alone."""
    cache = request.config.cache
    assert cache is not None
    places = cache.mkdir("wheel")

    def environment(extra: str) -> Environment:
        folder = places / f"{extra or 'alone'}-{_asked_for(built)}"
        wanted = f"{built.wheel}[{extra}]" if extra else str(built.wheel)
        if (folder / "ready").exists():
            _pip(folder, "install", "--force-reinstall", "--no-deps", str(built.wheel))
        else:
            for old in places.glob(f"{extra or 'alone'}-*"):
                shutil.rmtree(old)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
            _pip(folder, "install", wanted)
            (folder / "ready").touch()
        return Environment(folder, tmp_path_factory.mktemp(extra or "alone"))

    return environment


def _asked_for(built: Built) -> str:
    asks = Parser().parsestr(built.text(".dist-info/METADATA")).get_all("Requires-Dist") or []
    return hashlib.sha256("\n".join([sys.version, *sorted(asks)]).encode()).hexdigest()[:16]


def _backend(source: Path, hook: str, into: Path) -> None:
    """Call the build backend as `pip` and `build` do."""
    code = f"import setuptools.build_meta as backend; backend.{hook}({str(into)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def _pip(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check", *words],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
