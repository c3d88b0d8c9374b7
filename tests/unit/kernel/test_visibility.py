"""Who may see and change what of another principal: one table, tried call by call, and shown in docs/visibility.md.

The owner has a running program, a session, and files (in a sticky directory) and directories of several modes; somebody else tries
each call on them, in three ways: as a client, through an edge that says for whom it calls, and as a session.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kernel.world import ADMIN, SECOND, World
from vllm_symphony.abi.calls import (
    Advise,
    Append,
    Attach,
    Cancel,
    ChannelArgs,
    ChannelName,
    ChannelOpen,
    Channels,
    Chattr,
    Chmod,
    Chown,
    Concat,
    Export,
    Extract,
    FdArgs,
    Feed,
    FileArgs,
    Find,
    Flock,
    Forward,
    ForwardMany,
    Fsck,
    Gc,
    Generate,
    Getquota,
    Getrlimit,
    Getrusage,
    Import,
    Install,
    Kill,
    Link,
    List,
    Listdir,
    Logits,
    Metrics,
    Mkdir,
    NoArgs,
    Open,
    PathArgs,
    PidArgs,
    PidResult,
    Pin,
    Poll,
    ProgramArgs,
    Programs,
    Ps,
    Read,
    Recv,
    Rename,
    Request,
    Respond,
    Sample,
    Send,
    Setquota,
    Setrlimit,
    Setsched,
    Setweight,
    Setxattr,
    Spawn,
    Stat,
    Strace,
    Sync,
    Truncate,
    Wait,
    Watch,
    Xattr,
)  # fmt: skip
from vllm_symphony.abi.record import Restored
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials, OpenFlags, ResourceLimits, Span, pack_tokens
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import CreateFile, ForkFile
from vllm_symphony.kernel.fs.directory import FIXED, Directory
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import SYSTEM

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "visibility.md"
START, END = "<!-- table: start -->\n", "<!-- table: end -->\n"
STAFF = "staff"  # a group that both are in
ANN, BOB = Credentials("ann", (STAFF,), ("run",)), Credentials("bob", (STAFF,), ("run",))
MODES = {"0600": (0o600, ""), "0640": (0o640, ""), "0644": (0o644, ""), "0640 of a group of both": (0o640, STAFF),
         "0660 of a group of both": (0o660, STAFF)}  # fmt: skip
DIRECTORIES = {"0700": (0o700, ""), "0711": (0o711, ""), "0755": (0o755, ""), "1777": (0o1777, ""),
               "2770 of a group of both": (0o2770, STAFF)}  # fmt: skip
TOKEN = pack_tokens([1])
RDWR = int(OpenFlags.RDWR)
CREAT = int(OpenFlags.CREAT)
TRUNC = int(OpenFlags.TRUNC)

# what is tried, the call, its arguments, and what another ordinary principal hears: for each mode
Row = tuple[str, str, Callable[[str], Any], str]
FILES: tuple[Row, ...] = (
    ("open to read", "open", lambda path: Open(path), "EACCES EACCES ok ok ok"),
    ("open to write", "open", lambda path: Open(path, flags=RDWR), "EACCES EACCES EACCES EACCES ok"),
    ("open and cut off", "open", lambda path: Open(path, flags=RDWR | TRUNC), "EACCES EACCES EACCES EACCES ok"),
    ("read", "read", lambda path: Read(path=path), "EACCES EACCES ok ok ok"),
    ("stat", "stat", lambda path: Stat(path=path), "EACCES EACCES ok ok ok"),
    ("list", "list", List, "hidden hidden ok ok ok"),
    ("listdir", "listdir", lambda _: Listdir("/ann"), "hidden hidden ok ok ok"),
    ("listdir of all", "listdir", lambda _: Listdir("/", recursive=True), "hidden hidden ok ok ok"),
    ("unlink", "unlink", PathArgs, "EPERM EPERM EPERM EPERM EPERM"),
    ("rename", "rename", lambda path: Rename(path, "/mine"), "EPERM EPERM EPERM EPERM EPERM"),
    ("replace by rename", "rename", lambda path: Rename("/bobs", path), "EPERM EPERM EPERM EPERM EPERM"),
    ("chmod", "chmod", lambda path: Chmod(0o666, path=path), "EPERM EPERM EPERM EPERM EPERM"),
    ("chown", "chown", lambda path: Chown(path=path, group="bob"), "EPERM EPERM EPERM EPERM EPERM"),
    ("chattr", "chattr", lambda path: Chattr(path=path, expires_s=1.0), "EPERM EPERM EPERM EPERM EPERM"),
    ("getxattr", "getxattr", lambda path: Xattr("lang", path=path), "EACCES EACCES ok ok ok"),
    ("listxattr", "listxattr", lambda path: FileArgs(path=path), "EACCES EACCES ok ok ok"),
    ("setxattr", "setxattr", lambda path: Setxattr("lang", "de", path=path), "EACCES EACCES EACCES EACCES ok"),
    ("removexattr", "removexattr", lambda path: Xattr("lang", path=path), "EACCES EACCES EACCES EACCES ok"),
    ("find by name", "find", lambda path: Find("/", name=path.rpartition("/")[2], kind="file"), "hidden hidden ok ok ok"),
    ("find by attribute", "find", lambda path: Find(path, xattr={"lang": "*"}), "EACCES EACCES ok ok ok"),
    ("find by text", "find", lambda path: Find("/", name=path.rpartition("/")[2], text="words"), "hidden hidden ok ok ok"),
    ("watch", "watch", lambda path: Watch(path), "EACCES EACCES ok ok ok"),
    ("du", "du", lambda path: FileArgs(path=path), "EACCES EACCES ok ok ok"),
    ("du of all", "du", lambda _: FileArgs(path="/"), "hidden hidden ok ok ok"),
    ("pin", "pin", lambda path: Pin(path=path), "EACCES EACCES EACCES EACCES ok"),
    ("advise", "advise", lambda path: Advise(path=path, advice="dontneed"), "EACCES EACCES ok ok ok"),
    ("sync", "sync", lambda path: Sync(path=path), "EACCES EACCES ok ok ok"),
    ("fsck", "fsck", Fsck, "EACCES EACCES ok ok ok"),
    ("export", "export", Export, "EACCES EACCES ok ok ok"),
    ("import over it", "import", lambda path: Import(path, "packed"), "EEXIST EEXIST EEXIST EEXIST EEXIST"),
)
PLACES: tuple[Row, ...] = (
    ("stat", "stat", lambda path: Stat(path=path), "EACCES ok ok ok ok"),
    ("listdir", "listdir", Listdir, "EACCES EACCES ok ok ok"),
    ("list", "list", lambda path: List(path), "hidden hidden ok ok ok"),
    ("open a file in it (0644)", "open", lambda path: Open(f"{path}/doc"), "EACCES ok ok ok ok"),
    ("make a file in it", "open", lambda path: Open(f"{path}/new", flags=CREAT), "EACCES EACCES EACCES ok ok"),
    ("mkdir in it", "mkdir", lambda path: Mkdir(f"{path}/new"), "EACCES EACCES EACCES ok ok"),
    ("unlink in it", "unlink", lambda path: PathArgs(f"{path}/doc"), "EACCES EACCES EACCES EPERM ok"),
    ("rename out of it", "rename", lambda path: Rename(f"{path}/doc", "/taken"), "EACCES EACCES EACCES EPERM ok"),
    ("rename into it", "rename", lambda path: Rename("/bobs", f"{path}/bobs"), "EACCES EACCES EACCES ok ok"),
    ("rmdir in it", "rmdir", lambda path: PathArgs(f"{path}/empty"), "EACCES EACCES EACCES EPERM ok"),
    ("rmdir", "rmdir", PathArgs, "EPERM EPERM EPERM EPERM EPERM"),
    ("rename", "rename", lambda path: Rename(path, "/mine"), "EPERM EPERM EPERM EPERM EPERM"),
    ("chmod", "chmod", lambda path: Chmod(0o777, path=path), "EPERM EPERM EPERM EPERM EPERM"),
    ("chown", "chown", lambda path: Chown(path=path, group="bob"), "EPERM EPERM EPERM EPERM EPERM"),
    ("chattr", "chattr", lambda path: Chattr(path=path, durable="none"), "EPERM EPERM EPERM EPERM EPERM"),
    ("getxattr", "getxattr", lambda path: Xattr("lang", path=path), "EACCES EACCES ok ok ok"),
    ("setxattr", "setxattr", lambda path: Setxattr("lang", "de", path=path), "EACCES EACCES EACCES EPERM ok"),
    ("find in it", "find", Find, "EACCES EACCES ok ok ok"),
    ("find it by attribute", "find", lambda path: Find("/", xattr={"lang": "*"}, kind="dir"), "hidden hidden ok ok ok"),
    ("watch", "watch", Watch, "EACCES ok ok ok ok"),
    ("du", "du", lambda path: FileArgs(path=path), "EACCES EACCES ok ok ok"),
    ("fsck", "fsck", Fsck, "EACCES EACCES ok ok ok"),
    ("import into it", "import", lambda path: Import(f"{path}/new", "packed"), "EACCES EACCES EACCES ok ok"),
)
INSTALLED = {"0700": 0o700, "0744": 0o744, "0711": 0o711, "0755": 0o755}
REGISTRY: tuple[Row, ...] = (
    ("programs", "programs", lambda _: Programs(), "hidden ok ok ok"),
    ("program", "program", ProgramArgs, "ENOENT ok EACCES ok"),
    ("spawn", "spawn", lambda name: Spawn(program=name), "ENOENT EACCES ok ok"),
    ("uninstall", "uninstall", ProgramArgs, "ENOENT EACCES EACCES EACCES"),
    ("install a version", "install", lambda name: Install(name.partition("@")[0], "9", "x = 1"), "EACCES EACCES EACCES EACCES"),
)
CHANNELS = {"0600": 0o600, "0622": 0o622, "0644": 0o644, "0666": 0o666}
POSTS: tuple[Row, ...] = (
    ("channel_open to receive", "channel_open", lambda name: ChannelOpen(name, access="r"), "EACCES EACCES ok ok"),
    ("channel_open to send", "channel_open", lambda name: ChannelOpen(name, access="w"), "EACCES ok EACCES ok"),
    ("channel_open of a new one beside it", "channel_open", lambda name: ChannelOpen(f"{name}.new", CREAT),
     "EACCES EACCES EACCES EACCES"),
    ("channels", "channels", lambda _: Channels(), "hidden ok ok ok"),
    ("channel_unlink", "channel_unlink", ChannelName, "EACCES EACCES EACCES EACCES"),
)  # fmt: skip
PROCESSES: tuple[tuple[str, str, Callable[[int], Any], str], ...] = (
    ("kill", "kill", Kill, "ESRCH"),
    ("kill -STOP", "kill", lambda pid: Kill(pid, "STOP"), "ESRCH"),
    ("feed", "feed", lambda pid: Feed(pid, b"words"), "ESRCH"),
    ("getrlimit", "getrlimit", Getrlimit, "ESRCH"),
    ("setrlimit", "setrlimit", lambda pid: Setrlimit(ResourceLimits(tokens=0), pid), "ESRCH"),
    ("getrusage", "getrusage", Getrusage, "ESRCH"),
    ("ps of one", "ps", Ps, "ESRCH"),
    ("ps of all", "ps", lambda _: Ps(), "hidden"),
    ("attach", "attach", lambda pid: Attach(pid, follow=False), "ESRCH"),
    ("strace of one", "strace", Strace, "ESRCH"),
    ("strace of all", "strace", lambda _: Strace(), "hidden"),
    ("why", "why", PidArgs, "ESRCH"),
    ("wait", "wait", Wait, "ECHILD"),
    ("stat below /proc", "stat", lambda pid: Stat(path=f"/proc/{pid}/status"), "ENOENT"),
    ("open of its fd", "open", lambda pid: Open(f"/proc/{pid}/fd/3"), "ENOENT"),
    ("listdir of /proc", "listdir", lambda _: Listdir("/proc"), "hidden"),
)
BY_FD: tuple[tuple[str, Callable[[int], Any]], ...] = (
    ("close", FdArgs), ("dup", FdArgs), ("fork", FdArgs), ("truncate", lambda fd: Truncate(fd, 0)),
    ("append", lambda fd: Append(fd, TOKEN)), ("read", Read), ("stat", Stat),
    ("link", lambda fd: Link(fd, "/stolen")), ("forward", lambda fd: Forward(fd, TOKEN)),
    ("forward_many", lambda fd: ForwardMany((Forward(fd, TOKEN),))), ("sample", lambda fd: Sample(fd, 0)),
    ("logits", lambda fd: Logits(fd, 0)), ("generate", Generate), ("chmod", lambda fd: Chmod(0o777, fd=fd)),
    ("chown", lambda fd: Chown(fd=fd, group="bob")), ("chattr", lambda fd: Chattr(fd=fd, expires_s=1.0)),
    ("setxattr", lambda fd: Setxattr("lang", "de", fd=fd)), ("getxattr", lambda fd: Xattr("lang", fd=fd)),
    ("listxattr", FileArgs), ("removexattr", lambda fd: Xattr("lang", fd=fd)), ("flock", Flock), ("du", FileArgs), ("sync", Sync),
    ("extract", lambda fd: Extract(fd, (Span(0, 1),))), ("concat", lambda fd: Concat((fd,))),
    ("pin", Pin), ("advise", Advise), ("spawn", lambda fd: Spawn("async def main(): ...", fds={"book": fd})),
)  # fmt: skip
BY_CH: tuple[tuple[str, Callable[[int], Any]], ...] = (
    ("send", Send), ("recv", Recv), ("request", Request), ("respond", lambda _: Respond(1)),
    ("poll", lambda ch: Poll((ch,))), ("channel_close", ChannelArgs),
)  # fmt: skip
OWN = frozenset(  # name no object, or the caller's own alone; tools by the caller's grant
    ("hello", "keep_alive", "tokenize", "detokenize", "render_chat", "parse_tools", "model_info", "getpid", "sleep", "now",
     "monotonic", "random", "emit", "exit", "thread_start", "thread_end", "ping", "inherited", "tools", "call_tool", "info",
     "umask", "statfs")
)  # fmt: skip
NO_DOOR = {op for op, spec in CALLS.items() if spec.kind == "edge"}  # a session is a program, and these are not for programs
PROGRAMS = "EPERM"  # what they hear
WAYS = ("client", "edge", "session")


class Scene:
    """Ann's things, and who tries them."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.ann = w.kernel.connect(ANN, "client", 0)
        self.edge = w.kernel.connect(ANN, "edge", 0)
        self.paths = {word: f"/ann/{number}" for number, word in enumerate(MODES)}
        self.places = {word: f"/dir{number}" for number, word in enumerate(DIRECTORIES)}
        w("mkdir", by=self.ann, path="/ann")
        w("chmod", by=self.ann, path="/ann", mode=0o1777)
        for word, path in self.paths.items():
            w("open", by=self.ann, path=path, tokens=[1, 2, 3], flags=CREAT)
            self.entrust(path, *MODES[word])
        for word, path in self.places.items():
            w("mkdir", by=self.ann, path=path)
            w("mkdir", by=self.ann, path=f"{path}/empty")
            w("open", by=self.ann, path=f"{path}/doc", flags=CREAT, mode=0o644)
            self.entrust(path, *DIRECTORIES[word])
        self.installed = {word: f"ann/p{number}@1" for number, word in enumerate(INSTALLED)}
        for word, name in self.installed.items():
            w("install", by=self.ann, name=name.partition("@")[0], version="1", source="x = 1", mode=INSTALLED[word])
        self.channels = {word: f"ann/c{number}" for number, word in enumerate(CHANNELS)}
        w("umask", by=self.ann, mask=0)
        for word, name in self.channels.items():
            w("channel_open", by=self.ann, name=name, flags=CREAT, mode=CHANNELS[word])
        w("umask", by=self.ann, mask=0o022)
        self.fd = w("open", by=self.ann, tokens=[1, 2, 3]).fd
        self.program = w.program(parent=self.ann, stdin=True)
        w.kernel.input_bytes = lambda _: 0
        w("random", by=self.program)
        self.session = w.kernel.connect(ANN, "client", 0, lease_s=60.0)
        w("random", by=self.session)
        self.sleeper = w.start("sleep", by=self.ann, seconds=60.0)

    def entrust(self, path: str, mode: int, group: str) -> None:
        """Give it its rights, and an attribute."""
        self.w("chown", by=self.ann, path=path, group=group or None)
        self.w("chmod", by=self.ann, path=path, mode=mode)
        self.w("setxattr", by=self.ann, path=path, name="lang", value="en")

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
        if heard is None and by == self.edge:
            w.kernel.call(by, w.num_calls + 1_000_000, 0, "cancel", Cancel(w.num_calls), w.now_ns, cred)
        self.leave(by)
        return heard

    def leave(self, pid: int) -> None:
        if pid != self.edge:
            self.w.kernel.end_session(pid, "done", self.w.now_ns)
            if pid in self.w.kernel.processes and not self.w.kernel.processes[pid].has_ended:
                self.w.disconnect(pid)
            self.w.drain()

    def word(self, op: str, heard: Any, wanted: Any) -> str:
        """The table's word for what was heard; `wanted` is what a list would show. Who waits was let in."""
        if isinstance(heard, SymphonyError):
            return heard.reason
        if heard is None:
            return "ok"
        shown: list[Any] = []
        if op in ("list", "listdir", "find", "du"):
            shown = [f.path for f in heard.files]
            if isinstance(wanted, int):
                wanted = f"/proc/{wanted}"
            elif wanted in self.places.values() and f"{wanted}/doc" in shown:
                return "ok"
        elif op == "ps":
            shown = [p.pid for p in heard.processes]
        elif op == "programs":
            shown = [f"{p.name}@{p.version}" for p in heard.programs]
        elif op == "channels":
            shown = [stat.name for stat in heard.channels]
        elif op == "strace":
            shown = [r.pid for part in self.parts for r in part.records]
        else:
            return "ok"
        return "ok" if wanted in shown else "hidden"


@pytest.fixture
def scene(w: World) -> Iterator[Scene]:
    w.kernel.restore(Restored(), 0)
    scene = Scene(w)
    yield scene
    files = w.kernel.files
    for path, node in reversed(list(files.below(files.root))):
        if node.ino not in FIXED:
            scene.ask("edge", ADMIN, "rmdir" if isinstance(node, Directory) else "unlink", PathArgs(path))
    for name in scene.channels.values():
        scene.ask("edge", ADMIN, "channel_unlink", ChannelName(name))
    scene.leave(scene.session)
    w.disconnect(scene.ann)
    w.disconnect(scene.edge)


def state_of(scene: Scene, path: str) -> tuple[object, ...]:
    """All of a node that another call could have changed."""
    node = scene.w.kernel.files.lookup(path, SYSTEM)
    inside = tuple(node.entries) if isinstance(node, Directory) else (tuple(node.tokens), node.num_open)
    pinned = isinstance(node, Inode) and node.pinned
    return (node.mode, node.owner, node.group, tuple(node.xattrs.items()), node.expires_ns, pinned, inside)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), FILES, ids=[row[0] for row in FILES])
def test_files_of_another_principal_are_as_their_mode_says(
    scene: Scene, way: str, what: str, op: str, args: Callable[[str], Any], heard: str
):
    scene.ask(way, BOB, "open", Open("/bobs", flags=CREAT))

    for path, word in zip(scene.paths.values(), heard.split(), strict=True):
        before = state_of(scene, path)
        assert scene.word(op, scene.ask(way, BOB, op, args(path)), path) == (
            PROGRAMS if way == "session" and op in NO_DOOR else word
        )
        assert word == "ok" or state_of(scene, path) == before, "what was refused has changed nothing"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), PLACES, ids=[row[0] for row in PLACES])
def test_directories_of_another_principal_are_as_their_mode_says(
    scene: Scene, way: str, what: str, op: str, args: Callable[[str], Any], heard: str
):
    for path, word in zip(scene.places.values(), heard.split(), strict=True):
        scene.ask(way, BOB, "open", Open("/bobs", flags=CREAT))
        before = state_of(scene, path)
        assert scene.word(op, scene.ask(way, BOB, op, args(path)), path) == (
            PROGRAMS if way == "session" and op in NO_DOOR else word
        )
        assert word == "ok" or state_of(scene, path) == before, "what was refused has changed nothing"
        scene.ask("edge", ADMIN, "unlink", PathArgs("/taken"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), REGISTRY, ids=[row[0] for row in REGISTRY])
def test_installed_programs_of_another_principal_are_as_their_mode_says(
    scene: Scene, way: str, what: str, op: str, args: Callable[[str], Any], heard: str
):
    before = dict(scene.w.kernel.registry.programs)
    for name, word in zip(scene.installed.values(), heard.split(), strict=True):
        answer = scene.ask(way, BOB, op, args(name))
        assert scene.word(op, answer, name) == (PROGRAMS if way == "session" and op in NO_DOOR else word)
        if isinstance(answer, PidResult):
            assert scene.w.kernel.processes[answer.pid].cred.principal == "bob", "it runs as its caller"
            scene.w.exited(answer.pid)

    assert scene.w.kernel.registry.programs == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), POSTS, ids=[row[0] for row in POSTS])
def test_channels_of_another_principal_are_as_their_mode_says(
    scene: Scene, way: str, what: str, op: str, args: Callable[[str], Any], heard: str
):
    for name, word in zip(scene.channels.values(), heard.split(), strict=True):
        assert scene.word(op, scene.ask(way, BOB, op, args(name)), name) == word

    assert sorted(scene.w.kernel.channels.named) == sorted(scene.channels.values())


@pytest.mark.parametrize(("op", "args"), BY_CH, ids=[row[0] for row in BY_CH])
def test_a_channel_of_another_principal_is_not_open_for_who_shares_the_edge(scene: Scene, op: str, args: Any):
    ch = scene.ask("edge", ANN, "channel_open", ChannelOpen()).ch
    asked = scene.w.num_calls = scene.w.num_calls + 1
    scene.w.kernel.call(scene.edge, asked, 0, "request", Request(ch, b"?"), 0, ANN)
    assert scene.ask("edge", ANN, "recv", Recv(ch)).message.token == 1

    assert scene.ask("edge", BOB, op, args(ch)).reason == "EBADF"

    assert scene.w.is_open(asked, scene.edge)
    scene.ask("edge", ANN, "channel_close", ChannelArgs(ch))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("what", "op", "args", "heard"), PROCESSES, ids=[row[0] for row in PROCESSES])
def test_processes_of_another_principal_do_not_exist(scene: Scene, way: str, what: str, op: str, args: Any, heard: str):
    for pid in (scene.program, scene.session):
        word = scene.word(op, scene.ask(way, BOB, op, args(pid)), pid)
        assert word == (PROGRAMS if way == "session" and op in NO_DOOR else heard)

    process = scene.w.kernel.processes[scene.program]
    assert not (process.is_leaving or process.stopped or process.viewers) and process.own_budget.limits.tokens is None


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
    scene.w("open", by=scene.ann, path="/bobs", flags=CREAT)
    for rows, paths in ((FILES, scene.paths), (PLACES, scene.places)):
        for what, op, args, _ in rows:
            for path in paths.values():
                if op not in ("unlink", "rmdir", "rename", "mkdir", "removexattr") and what not in ("open and cut off", "advise"):
                    assert scene.word(op, scene.ask(way, ADMIN, op, args(path)), path) in ("ok", "EEXIST"), (what, path)
    for what, op, args, _ in PROCESSES:
        if op not in ("wait", "kill", "open"):
            assert scene.word(op, scene.ask(way, ADMIN, op, args(scene.program)), scene.program) == "ok", what
    for path in scene.paths.values():
        assert scene.ask(way, ADMIN, "open", Open(path, flags=RDWR | TRUNC)).length == 0
    for path in (*scene.paths.values(), *scene.places.values()):
        assert scene.word("removexattr", scene.ask(way, ADMIN, "removexattr", Xattr("lang", path=path)), path) == "ok"
        assert scene.word("rename", scene.ask(way, ADMIN, "rename", Rename(path, path + ".old")), path) == "ok"
    for path in scene.places.values():
        assert scene.word("unlink", scene.ask(way, ADMIN, "unlink", PathArgs(f"{path}.old/doc")), path) == "ok"
        assert scene.word("rmdir", scene.ask(way, ADMIN, "rmdir", PathArgs(f"{path}.old/empty")), path) == "ok"
    scene.ask(way, ADMIN, "kill", Kill(scene.program))

    assert scene.w.kernel.processes[scene.program].termed


def test_what_info_tells_is_of_the_server_and_of_nobodys_things(scene: Scene):
    text = scene.ask("client", BOB, "info", NoArgs()).json

    assert not re.search(r"\bann\b", text)


@pytest.mark.parametrize("way", ["client", "edge"])
def test_limits_are_ones_own_to_see_and_the_admins_to_set(scene: Scene, way: str):
    assert scene.ask(way, BOB, "getquota", Getquota("ann")).reason == "EPERM"
    assert scene.ask(way, BOB, "setquota", Setquota("bob", files=9)).reason == "EPERM"
    assert scene.ask(way, BOB, "getquota", Getquota()).quota.used_files == 0, "of what others have it says nothing"
    assert scene.ask(way, BOB, "getrlimit", Getrlimit(principal="ann")).reason == "EPERM"
    assert scene.ask(way, BOB, "setrlimit", Setrlimit(ResourceLimits(tokens=0), principal="ann")).reason == "EPERM"
    assert scene.ask(way, BOB, "getrlimit", Getrlimit(principal="bob")).used.tokens in (0, None)
    assert scene.ask(way, ADMIN, "getrlimit", Getrlimit(principal="ann")).used.tokens > 0

    assert scene.ask(way, ADMIN, "getquota", Getquota("ann")).quota.used_files > 0


@pytest.mark.parametrize("way", ["client", "edge"])
def test_gc_tells_of_ones_own_files_only(scene: Scene, way: str):
    scene.w("chattr", by=scene.ann, path="/ann/2", expires_s=1.0)
    scene.w.now_ns += 2 * SECOND

    assert scene.ask(way, BOB, "gc", Gc(dry_run=True)).removed == ()
    assert [f.path for f in scene.ask(way, ANN, "gc", Gc(dry_run=True)).removed] == ["/ann/2"]


def test_who_may_not_run_programs_starts_none(scene: Scene):
    assert scene.ask("edge", Credentials("eve"), "spawn", Spawn("async def main(): ...")).reason == "EPERM"


def test_a_prefix_cache_is_shared_within_a_principal_and_with_no_other(scene: Scene):
    for cred in (ANN, BOB, ANN):
        scene.ask("client", cred, "open", Open(tokens=pack_tokens([9, 9])))
    scene.ask("client", BOB, "open", Open("/ann/2"))

    domains = [e.domain for e in scene.w.sent(CreateFile) if e.tokens == [9, 9]]
    assert domains == ["ann", "bob", "ann"]
    assert all(inode.domain == inode.owner for inode in scene.w.kernel.files.inodes.values())


def test_a_copy_of_a_readable_file_belongs_to_who_made_it(scene: Scene):
    w = scene.w
    bob = w.kernel.connect(BOB, "client", 0)

    fd = w("fork", by=bob, fd=w("open", by=bob, path="/ann/2").fd).fd

    copy = w.kernel.processes[bob].fds.files[fd].inode
    assert (copy.owner, copy.domain) == ("bob", "bob") and w.sent(ForkFile)
    w.disconnect(bob)


@pytest.mark.parametrize("way", WAYS)
def test_metrics_of_all_together_are_admins_to_see(scene: Scene, way: str):
    assert scene.ask(way, BOB, "metrics", Metrics()).reason == "EPERM"


@pytest.mark.parametrize("way", WAYS)
def test_policies_and_parts_are_admins_to_set_and_of_parts_one_sees_ones_own(scene: Scene, way: str):
    for op, args in (("setsched", Setsched("process", "fcfs")), ("setweight", Setweight("bob", 9.0))):
        assert scene.ask(way, BOB, op, args).reason == "EPERM"
    seen = scene.ask(way, BOB, "getsched", NoArgs())

    if way == "session":
        assert seen.reason == PROGRAMS
    else:
        assert [stat.principal for stat in seen.principals] == ["bob"]


def test_the_table_speaks_of_every_call():
    tried = (
        {op for _, op, _, _ in (*FILES, *PLACES, *REGISTRY, *POSTS, *PROCESSES)}
        | {op for op, _ in (*BY_FD, *BY_CH)}
        | {"cancel", "gc", "getquota", "getsched", "metrics", "setquota", "setsched", "setweight"}
    )

    assert tried | OWN == set(CALLS) and not tried & OWN


def rendered() -> str:
    """The tables of docs/visibility.md."""
    lines: list[str] = []
    titles = (
        ("file", MODES, FILES), ("directory", DIRECTORIES, PLACES), ("installed program", INSTALLED, REGISTRY),
        ("channel", CHANNELS, POSTS),
    )  # fmt: skip
    for title, modes, rows in titles:
        lines += [f"| of another's {title}, mode | " + " | ".join(modes) + " |", "| --- " * (len(modes) + 1) + "|"]
        lines += [f"| {what} | " + " | ".join(heard.split()) + " |" for what, _, _, heard in rows]
        lines.append("")
    lines += ["| of another's program or session | as a client | as a session |", "| --- | --- | --- |"]
    lines += [f"| {what} | {heard} | {PROGRAMS if op in NO_DOOR else heard} |" for what, op, _, heard in PROCESSES]
    lines += ["", "| by another's fd or channel, of those who share an edge |  |", "| --- | --- |"]
    lines += [f"| {', '.join(op for op, _ in BY_FD)} | EBADF |"]
    lines += [f"| {', '.join(op for op, _ in BY_CH)} | EBADF |"]
    return "\n".join(lines) + "\n"


def test_the_page_shows_this_table():
    shown = PAGE.read_text().split(START)[1].split(END)[0]

    assert shown == rendered(), f"put this into {PAGE.name} between the markers:\n{rendered()}"
