"""find and watch: looking for files, and being told of them (kernel/syscall/find.py).

    find   below path --rights--> --name, owner, size, age, ...--> result at once
                                        with text: --candidates--> index of the store, ranked --> FindWork --> result
    watch  a Watcher (kernel/fs/watch.py) until it is cancelled

Rights come first: the index ranks and counts candidates only, so what one may not read changes neither. Before it is asked, the
index is given what it does not know yet of them, in batches of bounded size.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from math import inf
from typing import Any

from vllm_symphony.abi.calls import Find, FindResult, Watch, WatchPart
from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.errors import DeviceLost, InvalidArgument, TimedOut
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import FindDone, Part, StoreFind
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import MAY_READ, Node
from vllm_symphony.kernel.fs.watch import Watcher
from vllm_symphony.kernel.job import surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument, target
from vllm_symphony.kernel.timer import after

MAX_LIMIT = 65_536
MAX_PATTERN = 1024  # characters of a glob
MAX_QUERY = 4096
BATCH_TOKENS = 1 << 18  # that the index is given at once; a file with more goes alone
ON_ITS_WAY = -1  # `indexed_ns` of what the index may know by now: it must be told when the file goes
FIDELITIES = ("exact", "pruned", "approximate")


class FindWork(Pending):
    """A search by text: `paths` of the candidates, `new` is what the index does not know of them."""

    __slots__ = ("args", "id", "new", "paths", "sent")

    def __init__(self, m: Machine, call: Call, a: Find, paths: dict[Ino, str]) -> None:
        super().__init__(call)
        self.args = a
        self.paths = paths
        self.new = [ino for ino in paths if _changed_ns(m, m.files.inodes[ino]) != m.files.inodes[ino].indexed_ns]
        self.sent: dict[Ino, int] = {}  # when they were changed, as the index will have heard of
        self.id = JobId(0)
        self.ask(m)

    def ask(self, m: Machine) -> None:
        """Give the index a batch; with the last one, the question."""
        m.num_jobs += 1
        self.id = JobId(m.num_jobs)
        m.works[self.id] = self
        num_tokens = 0
        changed: list[tuple[Ino, int, list[int]]] = []
        while self.new and (not changed or num_tokens < BATCH_TOKENS):
            inode = m.files.inodes.get(self.new.pop())
            if inode is not None:
                changed.append((inode.ino, _changed_ns(m, inode), inode.tokens.tolist()))
                num_tokens += inode.length
                inode.indexed_ns = inode.indexed_ns or ON_ITS_WAY
        self.sent = {ino: changed_ns for ino, changed_ns, _ in changed}
        candidates = () if self.new else tuple(self.paths)
        m.emit(StoreFind(self.id, self.args.text, candidates, tuple(changed), self.args.limit))

    def drop(self, m: Machine) -> None:
        super().drop(m)
        m.works.pop(self.id, None)

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        """Take the store's answer."""
        call = self.call
        if call is None:
            return
        if not isinstance(completion, FindDone):
            self.drop(m)
            m.fail(call, getattr(completion, "error", None) or surprise(completion), now_ns)
            return
        for ino, changed_ns in self.sent.items():
            inode = m.files.inodes.get(ino)
            if inode is not None and inode.indexed_ns:  # else the index was told to forget it meanwhile
                inode.indexed_ns = changed_ns
        if self.new:
            del m.works[self.id]
            self.ask(m)
            return
        self.drop(m)
        m.finish(call, self._result(m, completion), now_ns)

    def _result(self, m: Machine, found: FindDone) -> FindResult:
        """Of what is still there."""
        hits = [(m.files.inodes[ino], snippet) for ino, snippet in found.hits if ino in m.files.inodes]
        files = tuple(target.shown(m, inode, self.paths[inode.ino]) for inode, _ in hits)
        return FindResult(files, found.total, tuple(snippet for _, snippet in hits))


def _changed_ns(m: Machine, inode: Inode) -> int:
    """When its tokens changed, by the wall clock: the index outlives the server."""
    return inode.modified_ns + m.offset_ns


def find(m: Machine, call: Call, a: Find) -> FindResult | None:
    """What matches all that is given; by path, with `text` the best first."""
    _demand_sound(a)
    top = m.files.lookup(a.path, call.cred, looking=True)
    if isinstance(top, Directory):
        top.demand(call.cred, MAY_READ, a.path)
        below = m.files.below(top, a.path, call.cred)
    else:
        target.demand_visible(top, call, a.path)
        below = iter([(a.path, top)])
    if a.xattr:  # to read attributes is to read the file; a directory that one may only pass shows none
        below = ((path, node) for path, node in below if node.allows(call.cred, MAY_READ))
    found = sorted(((path, node) for path, node in below if _matches(a, path, node, call.start_ns)), key=lambda pair: pair[0])
    if not a.text:
        return FindResult(tuple(target.shown(m, node, path) for path, node in found[: a.limit]), len(found))

    paths: dict[Ino, str] = {}
    for path, node in found:
        if isinstance(node, Inode) and node.length and node.allows(call.cred, MAY_READ):
            paths.setdefault(node.ino, path)
    if not paths:
        return FindResult((), 0)
    if m.lost is not None:
        raise DeviceLost(m.lost)
    work = FindWork(m, call, a, paths)
    call.pending = work
    if a.timeout_s is not None:
        late = TimedOut(f"not found in {a.timeout_s:g} s", timeout_s=a.timeout_s)
        work.timer = m.timers.at(after(call.start_ns, a.timeout_s), lambda now_ns: work.interrupt(m, late, now_ns))
    return None


def _demand_sound(a: Find) -> None:
    """Raises InvalidArgument with the first argument that is out of its range."""
    argument.demand_timeout(a.timeout_s)
    if not 1 <= a.limit <= MAX_LIMIT:
        raise InvalidArgument(f"limit must be in 1..{MAX_LIMIT}, not {a.limit}", limit=a.limit)
    if a.kind not in ("", "file", "dir"):
        raise InvalidArgument(f"kind must be file, dir or empty, not {a.kind!r}")
    if a.fidelity not in ("", *FIDELITIES):
        raise InvalidArgument(f"fidelity must be one of {', '.join(FIDELITIES)} or empty, not {a.fidelity!r}")
    for pattern in (a.name, *a.xattr.values()):
        if len(pattern) > MAX_PATTERN:
            raise InvalidArgument(f"a pattern has {len(pattern)} characters, the most is {MAX_PATTERN}", limit=MAX_PATTERN)
    if len(a.text) > MAX_QUERY:
        raise InvalidArgument(f"text has {len(a.text)} characters, the most is {MAX_QUERY}", limit=MAX_QUERY)
    for name in ("min_length", "max_length", "min_age_s", "max_age_s"):
        value = getattr(a, name)
        if value is not None and not 0 <= value < inf:
            raise InvalidArgument(f"{name} must be 0 or more and finite, not {value}", argument=name)


def _matches(a: Find, path: str, node: Node, now_ns: int) -> bool:
    """All that was asked for is so."""
    if a.name and not fnmatchcase(path.rpartition("/")[2], a.name):
        return False
    if (a.owner and node.owner != a.owner) or (a.kind and node.kind != a.kind):
        return False
    if not all(fnmatchcase(node.xattrs[name], glob) if name in node.xattrs else False for name, glob in a.xattr.items()):
        return False
    age_s = (now_ns - node.modified_ns) / 1e9
    if (a.min_age_s is not None and age_s < a.min_age_s) or (a.max_age_s is not None and age_s > a.max_age_s):
        return False
    if not isinstance(node, Inode):
        return not a.fidelity and a.min_length is None and a.max_length is None
    if a.fidelity and node.fidelity != a.fidelity:
        return False
    return (a.min_length is None or node.length >= a.min_length) and (a.max_length is None or node.length <= a.max_length)


def watch(m: Machine, call: Call, a: Watch) -> None:
    """Tell what happens, until cancelled. The first part is empty: it says that nothing is missed from then on."""
    top = m.files.lookup(a.path, call.cred, looking=True)
    target.demand_visible(top, call, a.path)
    call.pending = Watcher(m, call, a, top)
    m.emit(Part(call.door.pid, call.id, WatchPart(())))
