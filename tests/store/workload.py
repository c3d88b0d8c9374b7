"""What a crash test does to a server, and what may be there afterwards.

    history   [picture at the last sync] [after one more call] [after two] ... [after the call in flight]
    check     what the next life shows is one of these: nothing that was synced is missing, nothing is half there, all calls that
              were kept are the first ones

Files are in /notes (names and tokens are kept) and /kb (their pages too). `Workload` is the model: it says what each call will make
before it is made.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from tests.store.host import Host
from vllm_symphony.abi.calls import (
    Append,
    Chattr,
    Extract,
    FdArgs,
    FileArgs,
    Forward,
    Fsck,
    Link,
    Listdir,
    Mkdir,
    Open,
    PathArgs,
    Read,
    Rename,
    Setxattr,
    Sync,
    Truncate,
)
from vllm_symphony.abi.types import OpenFlags, Span, pack_tokens, unpack_tokens
from vllm_symphony.errors import StaleFile

CREAT, WRITE = OpenFlags.CREAT, OpenFlags.RDWR
NAMES = tuple(f"{folder}/{name}" for folder in ("/notes", "/kb", "/kb/deep") for name in "abcd")
MAX_TOKENS = 120


@dataclass(frozen=True)
class Kept:
    """A file as the model has it. `edited`: its keys and values are no function of its tokens."""

    tokens: tuple[int, ...]
    mode: int = 0o644
    xattrs: tuple[tuple[str, str], ...] = ()
    edited: bool = False


Picture = dict[str, Kept]


@dataclass
class Workload:
    """`pictures[0]` is what was synced last, or was there at the beginning. `saved`: edited files whose pages were synced."""

    rng: random.Random
    pictures: list[Picture] = field(default_factory=lambda: [{}])
    saved: dict[str, Kept] = field(default_factory=dict)
    num_calls: int = 0

    def begin(self, host: Host) -> None:
        """The first life: directories, on disk."""
        for path, durable in (("/notes", "tokens"), ("/kb", "pages"), ("/kb/deep", None)):
            host("mkdir", Mkdir(path, parents=True))
            if durable is not None:
                host("chattr", Chattr(path=path, durable=durable))
        host("sync", Sync())

    # ---- what is done

    def step(self, host: Host) -> None:
        """One more call, or a sync. Raises Died."""
        self.num_calls += 1
        if self.rng.random() < 0.25:
            now = self.pictures[-1]
            host("sync", Sync())
            self.pictures = [now]
            self.saved = {path: file for path, file in now.items() if file.edited and path.startswith("/kb")}
            return
        now = self.pictures[-1]
        does = [self._make, self._make] + (
            [self._grow, self._cut, self._move, self._dress, self._remove, self._edit] if now else []
        )
        self.rng.choice(does)(host, dict(now))

    def _will(self, picture: Picture) -> None:
        self.pictures.append(picture)

    def _unsaved(self, *paths: str) -> None:
        """Another file may have these names from here on, if it looks the same or not."""
        for path in paths:
            self.saved.pop(path, None)

    def _some(self, picture: Picture) -> str:
        return self.rng.choice(sorted(picture))

    def _tokens(self, most: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(32, 127) for _ in range(self.rng.randint(1, most)))

    def _make(self, host: Host, then: Picture) -> None:
        path, tokens = self.rng.choice(NAMES), self._tokens(80)
        fd = host("open", Open(tokens=pack_tokens(tokens), flags=WRITE, mode=0o644)).fd
        host("forward", Forward(fd, b""))
        then[path] = Kept(tokens)
        self._will(then)
        host("link", Link(fd, path, replace=True))
        host("close", FdArgs(fd))

    def _grow(self, host: Host, then: Picture) -> None:
        path, more = self._some(then), self._tokens(20)
        if len(then[path].tokens) + len(more) > MAX_TOKENS or then[path].edited:
            return
        fd = host("open", Open(path, flags=WRITE)).fd
        then[path] = replace(then[path], tokens=then[path].tokens + more)
        self._will(then)
        if self.rng.random() < 0.5:
            host("append", Append(fd, pack_tokens(more)))
        else:
            host("forward", Forward(fd, pack_tokens(more)))
        host("close", FdArgs(fd))

    def _cut(self, host: Host, then: Picture) -> None:
        path = self._some(then)
        if then[path].edited:
            return
        length = self.rng.randrange(len(then[path].tokens) + 1)
        fd = host("open", Open(path, flags=WRITE)).fd
        then[path] = replace(then[path], tokens=then[path].tokens[:length])
        self._will(then)
        host("truncate", Truncate(fd, length))
        host("close", FdArgs(fd))

    def _move(self, host: Host, then: Picture) -> None:
        old, new = self._some(then), self.rng.choice(NAMES)
        if old != new:
            then[new] = then.pop(old)
            self._unsaved(old, new)
            self._will(then)
            host("rename", Rename(old, new))

    def _dress(self, host: Host, then: Picture) -> None:
        path, value = self._some(then), str(self.rng.random())
        then[path] = replace(then[path], xattrs=(("user.x", value),))
        self._will(then)
        host("setxattr", Setxattr("user.x", value, path=path))

    def _remove(self, host: Host, then: Picture) -> None:
        path = self._some(then)
        del then[path]
        self._will(then)
        host("unlink", PathArgs(path))

    def _edit(self, host: Host, then: Picture) -> None:
        """A part of a file, closed up, in the place of another."""
        path, target = self._some(then), f"/kb/{self.rng.choice('abcd')}"
        tokens = then[path].tokens
        if len(tokens) < 8 or then[path].edited:
            return
        fd = host("open", Open(path)).fd
        part = host("extract", Extract(fd, (Span(0, 3), Span(5, len(tokens))), "compact")).fd
        then[target] = Kept(tokens[:3] + tokens[5:], 0o600, edited=True)
        self._unsaved(target)
        self._will(then)
        host("link", Link(part, target, replace=True))
        host("close", FdArgs(fd))
        host("close", FdArgs(part))

    # ---- what is there afterwards

    def look(self, host: Host) -> Picture:
        """All that a server shows."""
        found: Picture = {}
        for stat in host("listdir", Listdir("/", recursive=True)).files:
            if stat.kind == "file" and stat.path.startswith(("/notes", "/kb")):
                read = host("read", Read(path=stat.path))
                assert len(unpack_tokens(read.positions)) == read.length == stat.length
                xattrs = host("listxattr", FileArgs(path=stat.path)).attributes
                found[stat.path] = Kept(
                    tuple(unpack_tokens(read.tokens)), stat.mode, tuple(xattrs.items()), stat.fidelity != "exact"
                )
        return found

    def check(self, host: Host, row_after: Any) -> None:
        """The server shows one of the pictures, and can compute with all that it shows."""
        found = self.look(host)
        assert any(found == picture for picture in self.pictures), (
            f"{found} is none of the {len(self.pictures)} pictures since the last sync:\n"
            + "\n".join(map(str, (self.pictures[0], self.pictures[-1])))
        )
        damaged = [f for f in host("fsck", Fsck()).findings if f.kind in ("corrupt", "missing")]
        assert not damaged, damaged
        self.pictures = [found]
        self.saved = {path: file for path, file in self.saved.items() if found.get(path) == file}
        for path, file in found.items():
            if not file.tokens:
                continue
            fd = host("open", Open(path, flags=WRITE)).fd
            try:
                row = host("forward", Forward(fd, b"")).distributions[0]
            except StaleFile:
                assert file.edited and path not in self.saved, f"{path} was synced with its pages, and they are gone"
                host("unlink", PathArgs(path))
                self._will({other: kept for other, kept in self.pictures[-1].items() if other != path})
            else:
                row_after(file, row)
            host("close", FdArgs(fd))
