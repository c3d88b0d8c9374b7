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
from vllm_symphony.abi.types import Credentials, FileEvent
from vllm_symphony.errors import WouldBlock
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import Part
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.node import MAY_PASS, MAY_READ, Node

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

UNREAD_BYTES = 1 << 18  # a reader that has so much before it is sent no more
PAUSE_NS = 50_000_000  # until it is looked at again


class Watches:
    """All watchers; `tell` is what the table of files calls. `seq`: the number of the last event."""

    __slots__ = ("_m", "seq", "watchers")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.seq = 0
        self.watchers: list[Watcher] = []
        m.files.on_change.append(self.tell)

    def tell(self, node: Node, kind: str, path: str, new_path: str, detail: str) -> None:
        """Something happened to what has this path, or to all that names the node."""
        if not self.watchers:
            return
        files = self._m.files
        for at in [path] if path else [files.path_in(*name) for name in node.names] or ["/"]:
            self.seq += 1
            event = FileEvent(self.seq, 0, kind, at, node.ino, new_path, detail)
            for watcher in self.watchers:
                watcher.hear(node, event)

    def check(self) -> None:
        """Watchers are calls in flight."""
        assert all(watcher.call is not None and watcher.call.pending is watcher for watcher in self.watchers)


class Watcher(Pending):
    """One watch of `top`. `path` is where it is, or was last. `events` are not sent yet; those without a time are new."""

    __slots__ = ("_m", "cred", "events", "missing", "path", "recursive", "top", "unsent")

    def __init__(self, m: Machine, call: Call, a: Watch, top: Node) -> None:
        """Begin to listen. Raises WouldBlock when too many do."""
        limit = m.limits.watchers
        if len(m.watches.watchers) >= limit:
            raise WouldBlock(f"{limit} calls watch files, the most at once", limit=limit)
        super().__init__(call)
        self._m = m
        self.cred = call.cred
        self.top = top
        self.path = a.path
        self.recursive = a.recursive
        self.events: deque[FileEvent] = deque()
        self.unsent: set[int] = set()  # inos that were modified, as the reader will be told
        self.missing = 0
        m.watches.watchers.append(self)

    def drop(self, m: Machine) -> None:
        super().drop(m)
        m.watches.watchers.remove(self)

    def hear(self, node: Node, event: FileEvent) -> None:
        """Take it, if it is of what is watched and may be seen."""
        told = self._seen(node, event)
        if told is None or (told.kind == "modify" and told.ino in self.unsent):
            return
        if told.kind == "modify":
            self.unsent.add(told.ino)
        self.events.append(told)
        if len(self.events) > self._m.limits.watch_events:
            lost = self.events.popleft()
            self.missing += 1
            if lost.kind == "modify":
                self.unsent.discard(lost.ino)
        self._m.mark(self)

    def _seen(self, node: Node, event: FileEvent) -> FileEvent | None:
        """The event as this watcher may see it; None: not at all."""
        old, new = self.path, self._m.files.path_of(self.top) or self.path
        if node is self.top and event.kind != "move":
            return replace(event, path=new) if self._may_see(node, event.path) else None
        was = self._covers(old, event.path) and self._may_see(node, event.path)
        self.path = new
        if event.kind != "move":
            return event if was else None
        comes = (node is self.top or self._covers(new, event.new_path)) and self._may_see(node, event.new_path)
        if was and comes:
            return event
        if was:
            return replace(event, kind="delete", new_path="", detail="moved")
        return replace(event, kind="create", path=event.new_path, new_path="", detail="moved") if comes else None

    def _covers(self, top: str, path: str) -> bool:
        """Whether the path is the one that is watched, or below it as far as is watched."""
        inside = top.rstrip("/") + "/"
        return path == top or (path.startswith(inside) and (self.recursive or "/" not in path[len(inside) :]))

    def _may_see(self, node: Node, path: str) -> bool:
        """Whether lists would show it to the caller there, by the rights as they are now."""
        return node is self._m.files.root or (node.visible_to(self.cred) and shows(self._m, self.cred, node, path))

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


def shows(m: Machine, cred: Credentials, node: Node, path: str) -> bool:
    """Whether the caller can get to the directory of the path, and may look into it or owns what is there."""
    at: Node | None = m.files.root
    for name in path.split("/")[1:-1]:
        if not isinstance(at, Directory) or not at.allows(cred, MAY_PASS):
            return False
        at = at.entries.get(name)
    if not isinstance(at, Directory) or not at.allows(cred, MAY_PASS):
        return False
    return at.allows(cred, MAY_READ) or node.owned_by(cred)
