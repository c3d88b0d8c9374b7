"""What the model pins, moves, and finds again after a restart (tests/model/kvfs/keeping.py).

Where pages are changes nothing that can be read, so pins and moves are rights and limits only. After a restart the tree is what is
in directories that keep something: those names, tokens and attributes, and nothing of what only processes held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.model.kvfs.quota import Counting
from tests.model.kvfs.tree import READ, WRITE, File, Folder, Page, Process, View, below, demand
from vllm_symphony.abi.types import Credentials


@dataclass(eq=False)
class Later:
    """A call that the device or the store answers; `result` says what. `may_fail`: reasons that are not ours to know."""

    result: Callable[[Any], dict[str, Any] | None]
    may_fail: tuple[str, ...] = ()


class Keeping(Counting):
    packed: tuple[str, list[tuple[int, int]], str, dict[str, str]]  # what was exported last: its spool file, and what is in it

    def shown(self, node: Any, path: str | None = None) -> dict[str, Any]:
        raise NotImplementedError

    # ---- pins and moves

    def _named(self, process: Process, cred: Credentials, fd: int | None, path: str | None, right: int) -> File:
        node = self.target(process, cred, fd, path)
        demand(not isinstance(node, View) or node.kind == "dir", "EINVAL")
        demand(isinstance(node, File), "EISDIR")
        demand(fd is not None or node.allows(cred, right), "EACCES")
        assert isinstance(node, File)
        return node

    def pin(self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None, pinned: bool = True) -> None:
        file = self._named(process, cred, fd, path, WRITE)
        demand(fd is None or process.fds[fd].writable, "EBADF")
        if pinned:
            self.demand_fresh(file)
            if not file.pinned:
                self.demand_pinned(file, file.length)
        file.pinned = pinned

    def demand_pinned(self, file: File, num_tokens: int) -> None:
        """Pins of one principal have a limit, or those of all have half of the pages."""
        limit = self.limit(file.owner, "pinned_pages")
        others = self.num_pinned(None if limit is None else file.owner, file)
        need = self.cost(file, self.pages(num_tokens), num_tokens)
        demand(round(others + need, 6) <= (self.num_pages // 2 if limit is None else limit), "EDQUOT")

    def num_pinned(self, owner: str | None, without: File | None = None) -> float:
        pinned = [file for file in self.files() if file.pinned and file is not without and owner in (None, file.owner)]
        return round(sum(self.cost(file, self.pages(file.length)) for file in pinned), 6)

    def demand_growth(self, file: File, num_tokens: int) -> None:
        if file.pinned and self.pages(num_tokens) != self.pages(file.length):
            self.demand_pinned(file, num_tokens)

    def quota(self, principal: str) -> dict[str, Any]:
        return {**super().quota(principal), "used_pinned_pages": self.num_pinned(principal)}

    def advise(
        self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None, advice: str = "willneed",
        tier: str = "host", wait: bool = False,
    ) -> Later | None:  # fmt: skip
        demand(advice in ("willneed", "dontneed") and tier in ("host", "disk"), "EINVAL")
        file = self._named(process, cred, fd, path, READ)
        self.demand_fresh(file)
        if advice == "dontneed":
            demand(not file.pinned and file.writer is None, "EBUSY")
        else:
            self.demand_pages(file, 0)
        return Later(lambda _: None, ("ENOSPC",)) if wait else None

    # ---- the store

    def sync(self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None) -> Later:
        if fd is None and path is None:
            mine = [file for file in self.files() if file.owner == cred.principal and self.durable(file) != "none"]
        else:
            file = self._named(process, cred, fd, path, READ)
            demand(self.durable(file) != "none", "EINVAL")
            self.demand_fresh(file)
            mine = [file]

        def synced(_: Any) -> dict[str, Any]:
            for file in mine:
                file.saved = file.saved or (self.durable(file) == "pages" and not file.stale)
            return {"num_files": len(mine)}

        return Later(synced)

    def fsck(self, process: Process, cred: Credentials, path: str = "/", rebuild: bool = False) -> Later:
        demand(process.kind != "session", "EPERM")
        demand(path != "/proc" and not path.startswith("/proc/"), "ENOENT")
        top = self.lookup(process, cred, path)
        demand(top.allows(cred, READ), "EACCES")
        inside = [top] if isinstance(top, File) else [node for _, node in self.walk(top, path.rstrip("/"), cred)]
        files = {node.ino: node for node in inside if isinstance(node, File) and node.is_of(cred)}

        def checked(result: Any) -> dict[str, Any]:
            for finding in result.findings:
                assert finding.kind in ("stale", "rebuilt", "lost"), finding  # nothing is ever damaged here
                file = files[finding.ino]
                assert file.stale, f"{finding} of what is not stale"
                assert finding.kind == "stale" or rebuild
                if finding.kind == "rebuilt":
                    file.stale, file.saved = False, False
                    self.learn_pages(file)
            return {"num_files": len(files)}

        return Later(checked)

    def gc(self, process: Process, cred: Credentials, dry_run: bool = False) -> Later:
        demand(process.kind != "session", "EPERM")

        def collected(result: Any) -> None:
            assert {finding.kind for finding in result.removed} <= {"orphan"}, (
                result
            )  # what expires is gone at once, the disk is large

        return Later(collected)

    def export(self, process: Process, cred: Credentials, path: str, pages: bool = True) -> Later:
        demand(process.kind != "session", "EPERM")
        file = self._named(process, cred, None, path, READ)
        demand(file.writer is None, "EBUSY")
        if pages:
            self.demand_fresh(file)

        def exported(result: Any) -> None:
            file.saved = file.saved or pages
            self.packed = (result.spool, list(file.entries), file.fidelity, dict(file.xattrs))

        return Later(exported)

    def import_(self, process: Process, cred: Credentials, path: str, spool: str, mode: int = 0o600, trust: bool = False) -> Later:
        demand(process.kind != "session", "EPERM")
        demand(not trust or cred.is_admin, "EPERM")
        demand(0 <= mode <= 0o777, "EINVAL")
        place = self.place(cred, path)
        self.demand_free(place, cred)
        self.demand_room(cred.principal)
        _, entries, fidelity, xattrs = self.packed

        def imported(result: Any) -> dict[str, Any]:
            group = self.group_for(place[0], cred)
            made = result.file.created_ns
            file = File(cred.principal, group, mode & ~process.umask, made, made, entries=entries, fidelity=fidelity)
            file.ino, file.xattrs = result.file.ino, xattrs
            file.saved = result.trusted
            self.bind(place, file)
            place[0].modified = made  # it had its name before it was made again
            self.learn_pages(file)
            return {"file": self.shown(file, path)}

        return Later(imported)

    def walk(self, folder: Any, path: str, cred: Credentials, deep: bool = True) -> Any:
        raise NotImplementedError

    def learn_pages(self, file: File) -> None:
        """How much of it is computed now is the device's to say."""

    def demand_fresh(self, file: File) -> None:
        demand(not file.stale, "ESTALE")

    # ---- restart

    def restart(self, crash: bool) -> None:
        """All processes are gone, and what was kept nowhere."""
        if not crash:
            for file in self.files():
                file.saved = file.saved or (self.durable(file) == "pages" and not file.stale)
        self._prune(self.root, self.root.durable)
        for name, owner_mode, durable in (("home", 0o755, ""), ("tmp", 0o1777, "none")):
            if name not in self.root.entries:
                folder = Folder("root", "root", owner_mode, self.now, self.now, durable=durable, is_fixed=True)
                self.root.entries[name] = folder
        self.home, self.tmp = self.root.entries["home"], self.root.entries["tmp"]  # type: ignore[assignment]
        self.processes.clear()
        self.zombies.clear()
        self.watches.clear()
        self.locks.clear()
        kept = [node for _, node in below(self.root, "") if isinstance(node, File)]
        self.alarms = {what: alarm for what, alarm in self.alarms.items() if what in kept}
        for file in dict.fromkeys(kept):
            file.pinned, file.longest = False, 0
            file.stale = file.fidelity != "exact" and bool(file.entries) and not file.saved
            self.learn_pages(file)

    def forget_unkept(self) -> None:
        """Pages on disk are kept for files that are."""
        for file in self.files():
            file.saved = file.saved and self.durable(file) != "none"

    def _prune(self, folder: Folder, word: str) -> None:
        if word == "none":
            folder.entries = {}
        for node in folder.entries.values():
            if isinstance(node, Folder):
                self._prune(node, node.durable or word)

    def have_pages(self, file: File, frontier: int) -> None:
        """So much is computed, in pages of its own."""
        file.frontier = frontier
        file.pages = [Page() for _ in range(self.pages(frontier))]
