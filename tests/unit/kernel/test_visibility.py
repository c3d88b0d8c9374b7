"""Who may see and change what of another principal: one table, tried call by call, and shown in docs/visibility.md.

The owner has a running program, a session and files of mode 0600, 0640 and 0644; somebody else tries each call on them, in three
ways: as a client, through an edge that says for whom it calls, and as a session.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kernel.world import ADMIN, World
from vllm_symphony.abi.calls import (
    Append,
    Attach,
    Cancel,
    FdArgs,
    Forward,
    ForwardMany,
    Generate,
    Kill,
    Link,
    List,
    Logits,
    NoArgs,
    Open,
    PathArgs,
    PidArgs,
    Ps,
    Read,
    Rename,
    Sample,
    Spawn,
    Stat,
    Strace,
    Truncate,
    Wait,
)  # fmt: skip
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials, OpenFlags, pack_tokens
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import CreateFile, ForkFile

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "visibility.md"
START, END = "<!-- table: start -->\n", "<!-- table: end -->\n"
ANN, BOB = Credentials("ann", scopes=("run",)), Credentials("bob", scopes=("run",))
MODES = {"0600": 0o600, "0640": 0o640, "0644": 0o644}
TOKEN = pack_tokens([1])
RDWR = int(OpenFlags.RDWR)

# what is tried, the call, its arguments, and what another ordinary principal hears: for each mode, or in all
FILES: tuple[tuple[str, str, Callable[[str], Any], tuple[str, str, str]], ...] = (
    ("open to read", "open", lambda path: Open(path), ("EACCES", "EACCES", "ok")),
    ("open to write", "open", lambda path: Open(path, flags=RDWR), ("EACCES", "EACCES", "EACCES")),
    ("open and cut off", "open", lambda path: Open(path, flags=RDWR | int(OpenFlags.TRUNC)), ("EACCES", "EACCES", "EACCES")),
    ("read", "read", lambda path: Read(path=path), ("EACCES", "EACCES", "ok")),
    ("stat", "stat", lambda path: Stat(path=path), ("EACCES", "EACCES", "ok")),
    ("list", "list", List, ("hidden", "hidden", "ok")),
    ("unlink", "unlink", PathArgs, ("EPERM", "EPERM", "EPERM")),
    ("rename", "rename", lambda path: Rename(path, "/mine"), ("EPERM", "EPERM", "EPERM")),
    ("replace by rename", "rename", lambda path: Rename("/bobs", path), ("EPERM", "EPERM", "EPERM")),
)
PROCESSES: tuple[tuple[str, str, Callable[[int], Any], str], ...] = (
    ("kill", "kill", Kill, "ESRCH"),
    ("ps of one", "ps", Ps, "ESRCH"),
    ("ps of all", "ps", lambda _: Ps(), "hidden"),
    ("attach", "attach", lambda pid: Attach(pid, follow=False), "ESRCH"),
    ("strace of one", "strace", Strace, "ESRCH"),
    ("strace of all", "strace", lambda _: Strace(), "hidden"),
    ("why", "why", PidArgs, "ESRCH"),
    ("wait", "wait", Wait, "ECHILD"),
)
BY_FD: tuple[tuple[str, Callable[[int], Any]], ...] = (
    ("close", FdArgs), ("dup", FdArgs), ("fork", FdArgs), ("truncate", lambda fd: Truncate(fd, 0)),
    ("append", lambda fd: Append(fd, TOKEN)), ("read", Read), ("stat", Stat),
    ("link", lambda fd: Link(fd, "/stolen")), ("forward", lambda fd: Forward(fd, TOKEN)),
    ("forward_many", lambda fd: ForwardMany((Forward(fd, TOKEN),))), ("sample", lambda fd: Sample(fd, 0)),
    ("logits", lambda fd: Logits(fd, 0)), ("generate", Generate),
)  # fmt: skip
OWN = frozenset(  # name no object, or the caller's own alone; `spawn` by scope, docs/security.md
    ("hello", "keep_alive", "tokenize", "detokenize", "render_chat", "parse_tools", "model_info", "getpid", "sleep", "now",
     "monotonic", "random", "emit", "exit", "thread_start", "thread_end", "ping", "spawn", "info")
)  # fmt: skip
NO_DOOR = frozenset({"attach", "strace", "why"})  # a session is a program, and programs do not look at others
WAYS = ("client", "edge", "session")


class Scene:
    """Ann's things, and who tries them."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.ann = w.kernel.connect(ANN, "client", 0)
        self.edge = w.kernel.connect(ANN, "edge", 0)
        self.paths = {word: f"/ann/{word}" for word in MODES}
        for word, path in self.paths.items():
            w("open", by=self.ann, path=path, tokens=[1, 2, 3], flags=int(OpenFlags.CREAT), mode=MODES[word])
        self.fd = w("open", by=self.ann, tokens=[1, 2, 3]).fd
        self.program = w.program(parent=self.ann)
        w("random", by=self.program)
        self.session = w.kernel.connect(ANN, "client", 0, lease_s=60.0)
        w("random", by=self.session)
        self.sleeper = w.start("sleep", by=self.ann, seconds=60.0)

    def ask(self, way: str, cred: Credentials, op: str, args: Any) -> Any:
        """What `cred` hears: the result, or the error."""
        w = self.w
        by = self.edge
        if way != "edge":
            by = w.kernel.connect(cred, "client", w.now_ns, lease_s=60.0 if way == "session" else 0.0)
        w.num_calls += 1
        w.kernel.call(by, w.num_calls, 0, op, args, w.now_ns, cred)
        w.drain()
        self.parts = w.stream(w.num_calls, by)
        heard = w.replies.get((by, w.num_calls))
        self.leave(by)
        return heard

    def leave(self, pid: int) -> None:
        if pid != self.edge:
            self.w.kernel.end_session(pid, "done", self.w.now_ns)
            if pid in self.w.kernel.processes and not self.w.kernel.processes[pid].has_ended:
                self.w.disconnect(pid)
            self.w.drain()

    def word(self, op: str, heard: Any, wanted: Any) -> str:
        """The table's word for what was heard; `wanted` is what a list would show."""
        if isinstance(heard, SymphonyError):
            return heard.reason
        shown: list[Any] = []
        if op == "list":
            shown = [f.path for f in heard.files]
        elif op == "ps":
            shown = [p.pid for p in heard.processes]
        elif op == "strace":
            shown = [r.pid for part in self.parts for r in part.records]
        else:
            return "ok"
        return "ok" if wanted in shown else "hidden"


@pytest.fixture
def scene(w: World) -> Iterator[Scene]:
    scene = Scene(w)
    yield scene
    for path in list(w.kernel.files.names):
        w("unlink", by=scene.ann, path=path)
    scene.leave(scene.session)
    w.disconnect(scene.ann)
    w.disconnect(scene.edge)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), FILES, ids=[row[0] for row in FILES])
def test_files_of_another_principal_are_as_their_mode_says(
    scene: Scene, way: str, what: str, op: str, args: Any, heard: tuple[str, ...]
):
    scene.w("open", by=scene.ann, path="/ann/bait", tokens=[1], flags=int(OpenFlags.CREAT))
    if "replace" in what:
        scene.ask(way, BOB, "open", Open("/bobs", flags=int(OpenFlags.CREAT)))

    for path, word in zip(scene.paths.values(), heard, strict=True):
        assert scene.word(op, scene.ask(way, BOB, op, args(path)), path) == word, path

    read = [scene.w("read", by=scene.ann, path=path).tokens for path in scene.paths.values()]
    assert read == [pack_tokens([1, 2, 3])] * 3, "and nothing has changed"
    if "replace" in what:
        scene.ask(way, BOB, "unlink", PathArgs("/bobs"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), PROCESSES, ids=[row[0] for row in PROCESSES])
def test_processes_of_another_principal_do_not_exist(scene: Scene, way: str, what: str, op: str, args: Any, heard: str):
    for pid in (scene.program, scene.session):
        word = scene.word(op, scene.ask(way, BOB, op, args(pid)), pid)
        assert word == ("EPERM" if way == "session" and op in NO_DOOR else heard)

    process = scene.w.kernel.processes[scene.program]
    assert not process.is_leaving and not process.viewers


@pytest.mark.parametrize(("op", "args"), BY_FD, ids=[row[0] for row in BY_FD])
def test_an_fd_of_another_principal_is_not_open_for_who_shares_the_edge(scene: Scene, op: str, args: Any):
    processes = scene.w.kernel.processes
    fd = scene.ask("edge", ANN, "open", Open(tokens=TOKEN)).fd
    before = processes[scene.edge].fds.files[fd].inode.length

    heard = scene.ask("edge", BOB, op, args(fd))
    if op == "forward_many":
        (error,) = heard.errors
        assert error.reason == "EBADF"
    else:
        assert heard.reason == "EBADF"

    assert processes[scene.edge].fds.files[fd].inode.length == before
    scene.ask("edge", ANN, "close", FdArgs(fd))


def test_another_principals_call_is_not_cancelled_and_its_session_is_not_taken(scene: Scene):
    for way in WAYS:
        scene.ask(way, BOB, "cancel", Cancel(scene.sleeper))
    waiting = scene.w.num_calls = scene.w.num_calls + 1
    scene.w.kernel.call(scene.edge, waiting, 0, "sleep", CALLS["sleep"].args(60.0), 0, ANN)
    scene.ask("edge", BOB, "cancel", Cancel(waiting))
    with pytest.raises(SymphonyError, match="no such process"):
        scene.w.kernel.resume(scene.session, BOB)

    assert scene.w.is_open(scene.sleeper, scene.ann) and scene.w.is_open(waiting, scene.edge)


@pytest.mark.parametrize("way", ["client", "edge"])
def test_an_admin_sees_and_changes_all(scene: Scene, way: str):
    for _, op, args, _ in FILES[:6]:
        for path in scene.paths.values():
            assert scene.word(op, scene.ask(way, ADMIN, op, args(path)), path) == "ok", (op, path)
    for _, op, args, _ in PROCESSES:
        if op not in ("wait", "kill"):
            assert scene.word(op, scene.ask(way, ADMIN, op, args(scene.program)), scene.program) == "ok", op
    for path in scene.paths.values():
        scene.ask(way, ADMIN, "rename", Rename(path, path + ".old"))
        scene.ask(way, ADMIN, "unlink", PathArgs(path + ".old"))
    scene.ask(way, ADMIN, "kill", Kill(scene.program))

    assert not scene.w.kernel.files.names
    assert scene.w.kernel.processes[scene.program].termed


def test_what_info_tells_is_of_the_server_and_of_nobodys_things(scene: Scene):
    text = scene.ask("client", BOB, "info", NoArgs()).json

    assert "ann" not in text and "/ann" not in text


def test_who_may_not_run_programs_starts_none(scene: Scene):
    assert scene.ask("edge", Credentials("eve"), "spawn", Spawn("async def main(): ...")).reason == "EPERM"


def test_a_prefix_cache_is_shared_within_a_principal_and_with_no_other(scene: Scene):
    for cred in (ANN, BOB, ANN):
        scene.ask("client", cred, "open", Open(tokens=pack_tokens([9, 9])))
    scene.ask("client", BOB, "open", Open("/ann/0644"))

    domains = [e.domain for e in scene.w.sent(CreateFile) if e.tokens == [9, 9]]
    assert domains == ["ann", "bob", "ann"]
    assert all(inode.domain == inode.owner for inode in scene.w.kernel.files.inodes.values())


def test_a_copy_of_a_readable_file_belongs_to_who_made_it(scene: Scene):
    w = scene.w
    bob = w.kernel.connect(BOB, "client", 0)

    fd = w("fork", by=bob, fd=w("open", by=bob, path="/ann/0644").fd).fd

    copy = w.kernel.processes[bob].fds.files[fd].inode
    assert (copy.owner, copy.domain) == ("bob", "bob") and w.sent(ForkFile)
    w.disconnect(bob)


def test_the_table_speaks_of_every_call():
    tried = {op for _, op, _, _ in FILES} | {op for _, op, _, _ in PROCESSES} | {op for op, _ in BY_FD} | {"cancel"}

    assert tried | OWN == set(CALLS) and not tried & OWN


def rendered() -> str:
    """The tables of docs/visibility.md."""
    lines = ["| of another's file, mode | 0600 | 0640 | 0644 |", "| --- | --- | --- | --- |"]
    lines += [f"| {what} | " + " | ".join(heard) + " |" for what, _, _, heard in FILES]
    lines += ["", "| of another's program or session | as a client | as a session |", "| --- | --- | --- |"]
    lines += [f"| {what} | {heard} | {'EPERM' if op in NO_DOOR else heard} |" for what, op, _, heard in PROCESSES]
    lines += ["", "| by another's fd, of those who share an edge |  |", "| --- | --- |"]
    lines += [f"| {', '.join(op for op, _ in BY_FD)} | EBADF |"]
    return "\n".join(lines) + "\n"


def test_the_page_shows_this_table():
    shown = PAGE.read_text().split(START)[1].split(END)[0]

    assert shown == rendered(), f"put this into {PAGE.name} between the markers:\n{rendered()}"
