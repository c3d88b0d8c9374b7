"""Who is told what happens to files (kernel/fs/watch.py).

    FileTable.changed --> Watches --rights, as they are now--> Watcher: events ... --end of the kernel's entry--> WatchPart

A watcher is told of what `ls` would show it: every directory on the way can be passed, the one that holds the name be read, and
the file seen. Of a move that it sees one end of it is told that something came or went. Events are numbered by the machine. A
change of tokens that the reader has not been sent yet stands for all later ones; a reader that does not keep up loses the oldest
events, and is told how many.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import Watch, WatchPart
from vllm_symphony.abi.types import FileEvent
from vllm_symphony.errors import WouldBlock
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import Part
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.node import MAY_PASS, MAY_READ, Node
from vllm_symphony.kernel.fs.tree import shows

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

UNREAD_BYTES = 1 << 18  # a reader that has so much before it is sent no more
PAUSE_NS = 50_000_000  # until it is looked at again
Way = tuple[Directory, ...]


class Watches:
    """All watchers, by what they watch. `seq`: the number of the last event."""

    __slots__ = ("_m", "num_watchers", "seq", "tops")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.seq = 0
        self.num_watchers = 0
        self.tops: dict[Node, dict[Watcher, None]] = {}
        m.files.on_change.append(self.tell)

    def add(self, watcher: Watcher) -> None:
        """Raises WouldBlock when too many watch."""
        limit = self._m.limits.watchers
        if self.num_watchers >= limit:
            raise WouldBlock(f"{limit} calls watch files, the most at once", limit=limit)
        self.num_watchers += 1
        self.tops.setdefault(watcher.top, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """It watches no more."""
        self.num_watchers -= 1
        watchers = self.tops[watcher.top]
        del watchers[watcher]
        if not watchers:
            del self.tops[watcher.top]

    def tell(self, node: Node, kind: str, path: str, new_path: str, detail: str) -> None:
        """Something happened to what has this path, or to all that names the node (`FileTable.on_change`)."""
        if not self.tops:
            return
        files = self._m.files
        its_own = {**self.tops.get(node, {})}
        for at in [path] if path else [files.path_in(*name) for name in node.names] or ["/"]:
            self.seq += 1
            event = FileEvent(self.seq, 0, kind, at, node.ino, new_path, detail)
            way = self._way(at)
            new_way = self._way(new_path) if new_path else None
            near = {**its_own}
            for directory in (*way, *(new_way or ())):
                near.update(self.tops.get(directory, {}))
            for watcher in near:
                if watcher.hear(node, event, way, new_way):
                    its_own.pop(watcher, None)  # of a file with several names it is told once, by one that it may see

    def _way(self, path: str) -> Way:
        """The directories from the root to the one that holds the name."""
        at = self._m.files.root
        way = [at] if path != "/" else []
        for name in path.split("/")[1:-1]:
            found = at.entries.get(name)
            assert isinstance(found, Directory), f"{path} has changed, and nothing leads there"
            at = found
            way.append(at)
        return tuple(way)

    def check(self) -> None:
        """Watchers are calls in flight."""
        watchers = [watcher for of_one in self.tops.values() for watcher in of_one]
        assert len(watchers) == self.num_watchers and all(self.tops.values())
        assert all(watcher.call is not None and watcher.call.pending is watcher for watcher in watchers)


class Watcher(Pending):
    """One watch of `top`, wherever that is moved. `events` are not sent yet; those without a time are new."""

    __slots__ = ("_m", "cred", "events", "missing", "recursive", "top", "unsent")

    def __init__(self, m: Machine, call: Call, a: Watch, top: Node) -> None:
        """Begin to listen. Raises WouldBlock when too many do."""
        super().__init__(call)
        self._m = m
        self.cred = call.cred
        self.top = top
        self.recursive = a.recursive
        self.events: deque[FileEvent] = deque()
        self.unsent: set[int] = set()  # inos that were modified, as the reader will be told
        self.missing = 0
        m.watches.add(self)

    def drop(self, m: Machine) -> None:
        super().drop(m)
        m.watches.remove(self)

    def hear(self, node: Node, event: FileEvent, way: Way, new_way: Way | None) -> bool:
        """Take it, if it is of what is watched and may be seen. `way`: the directories that lead to its path."""
        if not node.visible_to(self.cred):
            return False
        was = self._sees(node, way, event.path)
        comes = new_way is not None and self._sees(node, new_way, event.new_path)
        if not was and not comes:
            return False
        if event.kind == "modify":
            if event.ino in self.unsent:
                return True
            self.unsent.add(event.ino)
        if new_way is not None and not (was and comes):
            end = event.path if was else event.new_path
            event = replace(event, kind="delete" if was else "create", path=end, new_path="", detail="moved")
        self._take(event)
        return True

    def _take(self, event: FileEvent) -> None:
        self.events.append(event)
        if len(self.events) > self._m.limits.watch_events:
            lost = self.events.popleft()
            self.missing += 1
            if lost.kind == "modify":
                self.unsent.discard(lost.ino)
        self._m.mark(self)

    def _sees(self, node: Node, way: Way, path: str) -> bool:
        """Whether it is of what is watched, and lists would show it to the caller there, by the rights as they are now."""
        if not shows(self.cred, path, node):
            return False
        if node is not self.top and not (self.top in way if self.recursive else self.top is way[-1]):
            return False
        cred = self.cred
        return all(directory.allows(cred, MAY_PASS) for directory in way) and (
            not way or way[-1].allows(cred, MAY_READ) or node.owned_by(cred)
        )

    def flush(self, m: Machine, now_ns: int) -> None:
        call = self.call
        assert call is not None
        m.timers.cancel(self.timer)
        self.events = deque(event if event.t_ns else replace(event, t_ns=now_ns + m.offset_ns) for event in self.events)
        if m.unread_bytes(call.door.pid) > UNREAD_BYTES:
            self.timer = m.timers.at(now_ns + PAUSE_NS, lambda at_ns: self.flush(m, at_ns))
            return
        while self.events:
            events = tuple(self.events.popleft() for _ in range(min(len(self.events), m.limits.part_events)))
            m.emit(Part(call.door.pid, call.id, WatchPart(events, self.missing)))
            self.missing = 0
        self.unsent.clear()
