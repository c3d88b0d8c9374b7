"""Names against the operating system's own: the same operations in a real directory and in the kernel's tree give the same errors
and the same tree.

Rights are left out (tests/unit/kernel/test_right.py has them): both sides act as somebody who may do all.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.counts import count
from tests.unit.kernel.world import World
from vllm_symphony.abi.types import OpenFlags
from vllm_symphony.errors import SymphonyError

NUM_RUNS, NUM_OPS = count(8, 200), 300
PLACES = ("/a", "/b", "/c", "/a/a", "/a/b", "/b/a", "/a/a/a", "/a/a/b", "/b/a/b", "/a/a/a/c")
EXCL, RDWR = int(OpenFlags.CREAT | OpenFlags.EXCL), int(OpenFlags.RDWR)
CREAT = int(OpenFlags.CREAT)


def heard(act: Callable[[], object]) -> str:
    """The error's word, "" for none."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except SymphonyError as error:
        return error.reason
    return ""


class Both:
    """A real directory, and the kernel."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.w = World()
        self.fds: dict[int, int] = {}  # the system's by ours

    def at(self, path: str) -> str:
        return f"{self.top}{path}"

    def mkdir(self, path: str, _: str) -> tuple[str, str]:
        return heard(lambda: os.mkdir(self.at(path))), heard(lambda: self.w("mkdir", path=path))

    def rmdir(self, path: str, _: str) -> tuple[str, str]:
        return heard(lambda: os.rmdir(self.at(path))), heard(lambda: self.w("rmdir", path=path))

    def unlink(self, path: str, _: str) -> tuple[str, str]:
        return heard(lambda: os.unlink(self.at(path))), heard(lambda: self.w("unlink", path=path))

    def rename(self, path: str, new: str) -> tuple[str, str]:
        return heard(lambda: os.rename(self.at(path), self.at(new))), heard(lambda: self.w("rename", old=path, new=new))

    def create(self, path: str, _: str) -> tuple[str, str]:
        return self._open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, EXCL | RDWR)

    def open(self, path: str, _: str) -> tuple[str, str]:
        return self._open(path, os.O_RDWR, RDWR)

    def make(self, path: str, _: str) -> tuple[str, str]:
        return self._open(path, os.O_CREAT | os.O_RDWR, CREAT | RDWR)

    def _open(self, path: str, real_flags: int, flags: int) -> tuple[str, str]:
        fds: list[int] = []
        real = heard(lambda: fds.append(os.open(self.at(path), real_flags)))
        ours = heard(lambda: fds.append(self.w("open", path=path, flags=flags).fd))
        if len(fds) == 2:
            self.fds[fds[1]] = fds[0]
        return real, ours

    def link(self, _: str, new: str) -> tuple[str, str]:
        """Of an open file that has a name still: the system needs one."""
        for ours, real in self.fds.items():
            path = self.w("stat", fd=ours).file.path
            if path is not None:
                assert os.fstat(real).st_ino == os.stat(self.at(path)).st_ino
                return heard(lambda p=path: os.link(self.at(p), self.at(new))), heard(lambda o=ours: self.w("link", fd=o, path=new))
        return "", ""

    def close(self, _: str, __: str) -> tuple[str, str]:
        for ours in list(self.fds)[:1]:
            os.close(self.fds.pop(ours))
            self.w("close", fd=ours)
        return "", ""

    def check(self) -> None:
        """Both trees are one, and so are their open files' numbers of names."""
        self.w.check()
        real, inos = {}, {}
        for folder, folders, files in os.walk(self.top):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                stat = os.stat(path)
                kind = "dir" if os.path.isdir(path) else "file"
                real[path.removeprefix(str(self.top))] = (kind, stat.st_nlink if kind == "file" else 1, stat.st_ino)
        ours = {f.path: f for f in self.w("listdir", recursive=True).files if f.path not in ("/home", "/tmp", "/proc")}
        assert {path: fact[:2] for path, fact in real.items()} == {path: (f.kind, f.nlink) for path, f in ours.items()}
        for path, file in ours.items():
            assert inos.setdefault(file.ino, real[path][2]) == real[path][2], path
        for fd, theirs in self.fds.items():
            assert self.w("stat", fd=fd).file.nlink == os.fstat(theirs).st_nlink


OPS = ("mkdir", "mkdir", "rmdir", "unlink", "rename", "rename", "create", "open", "make", "link", "close")


@pytest.mark.parametrize("number", range(NUM_RUNS))
def test_names_behave_as_the_systems_own(number: int, tmp_path: Path) -> None:
    rng, both = Random(number), Both(tmp_path)
    done: list[tuple[str, str, str]] = []

    for _ in range(NUM_OPS):
        op, path, new = rng.choice(OPS), rng.choice(PLACES), rng.choice(PLACES)
        done.append((op, path, new))
        real, ours = getattr(both, op)(path, new)
        if op == "rename" and real == "ENOTEMPTY" and path.startswith(f"{new}/"):
            real = ours if ours in ("EISDIR", "ENOTEMPTY") else real  # a file onto a directory above it: Linux says ENOTEMPTY
        assert ours == real, (number, done[-1])
        both.check()

    for fd in both.fds.values():
        os.close(fd)
    both.w.disconnect()
    both.w.assert_empty()
