"""What a program that declares its paths can name: a matrix of all calls on names, tried one by one.

paths ("/kb/en", "/notes")      files in /kb/en, /kb/de, /notes, /other; all of them the caller's own
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.counts import count, random_for
from tests.unit.kernel.world import ME, World
from vllm_symphony.abi.record import Restored
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import OpenFlags, Pid
from vllm_symphony.errors import AccessDenied, BadProgram, SymphonyError
from vllm_symphony.kernel.fs.path import leads_within

PATHS = ("/kb/en", "/notes")
SOURCE = """# /// script
# [tool.symphony]
# paths = ["/kb/en", "/notes"]
# ///
async def main(): ...
"""
FILES = ("/kb/en/doc", "/kb/de/doc", "/kb/top", "/notes/a", "/other/doc", "/plain")
CREAT, RDWR = int(OpenFlags.CREAT), int(OpenFlags.RDWR)

# each call that names a path, with what it needs beside
NAMED: dict[str, dict[str, Any]] = {
    "open": {}, "read": {}, "stat": {}, "unlink": {}, "mkdir": {}, "rmdir": {}, "listdir": {}, "chmod": {"mode": 0o600},
    "chown": {"group": "me"}, "setxattr": {"name": "a", "value": "b"}, "getxattr": {"name": "lang"}, "listxattr": {},
    "removexattr": {"name": "lang"}, "chattr": {"expires_s": 60.0}, "pin": {}, "advise": {"advice": "dontneed"}, "du": {},
    "find": {}, "watch": {}, "sync": {},
}  # fmt: skip
LOOKING = {"stat", "listdir", "du", "find", "watch"}  # at a directory on the way to what is declared
OTHERS = {"link", "rename", "list"}  # below
DOORS = {"fsck", "export", "import"}  # for clients, who have no such paths; the walk is the same


def scene() -> World:
    world = World()
    world.kernel.restore(Restored(), 0)  # with a store, for `sync`
    for path in FILES:
        world("mkdir", path=path.rpartition("/")[0] or "/", parents=True)
        fd = world("open", path=path, flags=CREAT, tokens=[1, 2]).fd
        world("setxattr", path=path, name="lang", value="en")
        world("close", fd=fd)
    return world


@pytest.fixture
def w() -> World:
    return scene()


@pytest.fixture
def bound(w: World) -> int:
    return w.program(source=SOURCE)


def reason(w: World, pid: int, op: str, **args: Any) -> str:
    call = w.start(op, by=pid, **args)
    if w.is_open(call, pid):
        return "ok"
    try:
        w.result(call, pid)
    except SymphonyError as error:
        return error.reason
    return "ok"


def listed(w: World, pid: int, path: str, *, recursive: bool = False) -> list[str | None]:
    return [stat.path for stat in w("listdir", by=pid, path=path, recursive=recursive).files]


def test_the_matrix_speaks_of_every_call_that_names_a_path():
    speak = {op for op, spec in CALLS.items() if {"path", "old", "prefix"} & set(spec.args.__dataclass_fields__)}

    assert speak - {"channels"} == set(NAMED) | OTHERS | DOORS


@pytest.mark.parametrize("op", NAMED)
def test_what_is_not_declared_cannot_be_named_there_or_not(w: World, bound: int, op: str):
    outside = ("/kb/de/doc", "/kb/de", "/kb/de/no", "/kb/top", "/other", "/other/doc", "/plain", "/no", "/kb/english", "/notes2",
               "/tmp", "/home/me", "/home/me/x", f"/proc/{bound}", "/proc/self/status", "/proc")  # fmt: skip
    for path in outside:
        assert reason(w, bound, op, path=path, **NAMED[op]) == "EACCES", path


@pytest.mark.parametrize("op", NAMED)
@pytest.mark.parametrize("path", ["/kb/en/doc", "/kb/en", "/notes", "/notes/no"])
def test_what_is_declared_is_named_as_by_anybody(op: str, path: str):
    free, bound = scene(), scene()

    assert reason(bound, bound.program(source=SOURCE), op, path=path, **NAMED[op]) == reason(
        free, free.program(), op, path=path, **NAMED[op]
    )


@pytest.mark.parametrize("op", NAMED)
def test_what_leads_to_it_is_passed_and_looked_at_and_no_more(w: World, bound: int, op: str):
    for path in ("/", "/kb"):
        heard = reason(w, bound, op, path=path, **NAMED[op])
        if path != "/" or op not in ("mkdir", "rmdir"):  # / is there and stays, for everybody
            assert (heard != "EACCES") is (op in LOOKING), (path, heard)


def test_what_is_on_the_way_shows_only_what_leads_there(w: World, bound: int):
    assert listed(w, bound, "/") == ["/kb", "/notes"]
    assert listed(w, bound, "/kb") == ["/kb/en"]
    assert listed(w, bound, "/", recursive=True) == ["/kb", "/kb/en", "/kb/en/doc", "/notes", "/notes/a"]
    assert [stat.path for stat in w("list", by=bound, prefix="/").files] == ["/kb/en/doc", "/notes/a"]
    assert [stat.path for stat in w("list", by=bound, prefix="/kb/d").files] == []
    assert [stat.path for stat in w("find", by=bound, path="/", kind="file").files] == ["/kb/en/doc", "/notes/a"]
    assert w("find", by=bound, path="/", xattr={"lang": "*"}).total == 2
    assert [stat.path for stat in w("du", by=bound, path="/").files if stat.kind == "file"] == ["/kb/en/doc", "/notes/a"]


def test_a_file_on_the_way_is_no_directory_to_look_at(w: World):
    pid = w.program(source=SOURCE.replace("/notes", "/plain/x"))

    assert reason(w, pid, "stat", path="/plain") == "EACCES"
    assert "/plain" not in listed(w, pid, "/")


def test_a_watch_tells_of_what_is_declared_and_of_nothing_else(w: World, bound: int):
    call = w.start("watch", by=bound, path="/", recursive=True)

    w("rename", old="/kb/de/doc", new="/kb/de/new")
    w("rename", old="/kb/en/doc", new="/kb/de/gone")
    w("rename", old="/other/doc", new="/notes/came")
    w("chmod", path="/other", mode=0o700)
    w("chmod", path="/kb", mode=0o700)

    events = [(e.kind, e.path, e.new_path) for part in w.stream(call, bound) for e in part.events]
    assert events == [("delete", "/kb/en/doc", ""), ("create", "/notes/came", ""), ("attrib", "/kb", "")]


def test_names_are_made_and_moved_inside_only(w: World, bound: int):
    fd = w("open", by=bound, path="/notes/new", flags=CREAT | RDWR).fd

    for path, heard in (("/notes/also", "ok"), ("/other/also", "EACCES"), ("/kb", "EACCES"), ("/also", "EACCES")):
        assert reason(w, bound, "link", fd=fd, path=path) == heard
    assert reason(w, bound, "rename", old="/notes/a", new="/kb/en/a") == "ok"
    assert reason(w, bound, "rename", old="/kb/en/a", new="/kb/a") == "EACCES"
    assert reason(w, bound, "rename", old="/other/doc", new="/notes/doc") == "EACCES"
    assert reason(w, bound, "rename", old="/kb", new="/notes/kb") == "EACCES"
    assert reason(w, bound, "rename", old="/notes", new="/other/notes") == "EACCES"
    w.check()


def test_directories_above_what_is_declared_are_not_made_for_it(w: World):
    pid = w.program(source=SOURCE.replace("/notes", "/new/deep/er"))

    assert reason(w, pid, "mkdir", path="/new/deep/er/x", parents=True) == "EACCES"
    assert reason(w, pid, "mkdir", path="/kb/en/x/y/z", parents=True) == "ok"
    w("mkdir", path="/new/deep", parents=True)
    assert reason(w, pid, "mkdir", path="/new/deep/er/x", parents=True) == "ok"


def test_old_programs_that_know_no_directories_get_none_outside(w: World):
    pid = w.program(source=SOURCE, abi="1.1")

    assert reason(w, pid, "open", path="/notes/by/old", flags=CREAT) == "ok"
    assert reason(w, pid, "open", path="/made/by/old", flags=CREAT) == "EACCES"
    assert "/made" not in listed(w, w.pid, "/")


def test_an_open_file_tells_no_name_that_may_not_be_said(w: World):
    outside, both = w("open", path="/other/doc").fd, w("open", path="/kb/de/doc").fd
    w("link", fd=both, path="/notes/doc")
    pid = w.program(source=SOURCE, fds={"outside": outside, "both": both})
    fds = w("inherited", by=pid).fds

    assert w("stat", by=pid, fd=fds["outside"]).file.path is None
    assert w("stat", by=pid, fd=fds["both"]).file.path == "/notes/doc"
    assert w("du", by=pid, fd=fds["outside"]).files[0].path is None
    assert w.tokens(fds["outside"], by=pid) == [1, 2], "but it was given, and is read"


def test_children_have_no_more_and_may_have_less(w: World, bound: int):
    inherits = w.program(parent=bound)
    narrower = w.program(parent=bound, source=SOURCE.replace("/notes", "/kb/en/deep").replace('"/kb/en",', ""))
    wider = w.program(parent=bound, source=SOURCE.replace('"/notes"', '"/"'))
    elsewhere = w.program(parent=bound, source=SOURCE.replace("/notes", "/other").replace('"/kb/en",', ""))

    paths = [w.kernel.processes[Pid(pid)].cred.paths for pid in (inherits, narrower, wider, elsewhere)]
    assert paths == [PATHS, ("/kb/en/deep",), ("/kb/en", "/notes"), ()]
    assert [reason(w, elsewhere, "stat", path=path) for path in ("/", "/kb/en", "/other/doc")] == ["EACCES"] * 3
    assert reason(w, elsewhere, "open", tokens=[1]) == "ok", "files without names are its own"


def test_a_home_is_the_callers(w: World):
    pid = w.program(source=SOURCE.replace("/notes", "~/tickets"))
    at_home = w.program(source=SOURCE.replace("/notes", "~"))

    assert w.kernel.processes[Pid(pid)].cred.paths == ("/kb/en", "/home/me/tickets")
    assert reason(w, at_home, "open", path="/home/me/new", flags=CREAT) == "ok"
    assert reason(w, pid, "open", path="/home/me/tickets/new", flags=CREAT) == "ENOENT"
    assert listed(w, pid, "/home") == ["/home/me"]


@pytest.mark.parametrize("path", ["/kb/", "/kb/../x", "//", "/kb//x", "/" + "x" * 300, "~/.."])
def test_paths_that_are_none_are_the_programs_mistake(w: World, path: str):
    with pytest.raises(BadProgram, match="manifest's paths"):
        w.program(source=SOURCE.replace("/notes", path))


def test_processes_are_seen_below_proc_by_who_declares_it(w: World):
    pid = w.program(source=SOURCE.replace("/notes", "/proc"))

    assert f"/proc/{pid}" in listed(w, pid, "/proc") and "/proc" in listed(w, pid, "/")
    assert reason(w, pid, "read", path="/proc/self/status") == "ok"


def test_what_is_refused_is_told_with_what_is_allowed(w: World, bound: int):
    with pytest.raises(AccessDenied, match=r"may name /kb/en, /notes and what is below, not /other/doc") as caught:
        w("open", by=bound, path="/other/doc")

    assert caught.value.values == {"path": "/other/doc", "paths": "/kb/en, /notes"}


def test_nobody_else_is_bound(w: World, bound: int):
    assert w.kernel.processes[w.pid].cred == ME and ME.paths is None
    assert "/proc" in listed(w, w.pid, "/")


POOL = (*FILES, "/", "/kb", "/kb/en", "/kb/de", "/notes", "/other", "/tmp", "/home/me", "/kb/en/new", "/kb/new", "/notes/x/y",
        "/new", "/tmp/x", "/home/me/x", "/proc/self", "/notes/b", "/kb/en/deep/er")  # fmt: skip


def outside(w: World) -> dict[str, tuple[object, ...]]:
    """All that is not declared: what each node is, and holds."""
    found: dict[str, tuple[object, ...]] = {}
    for path, node in w.kernel.files.below(w.kernel.files.root):
        if not any(path == top or path.startswith(f"{top}/") for top in PATHS):
            holds = tuple(getattr(node, "tokens", ())) or tuple(
                name for name in getattr(node, "entries", ()) if name not in ("en", "notes")
            )
            found[path] = (node.ino, node.mode, node.group, dict(node.xattrs), node.expires_ns, holds)
    return found


@pytest.mark.parametrize("seed", range(count(20, 1000)))
def test_whatever_a_bound_program_tries_nothing_else_is_seen_or_changed(seed: int):
    rng, w = random_for(f"reach {seed}"), scene()
    pid = w.program(source=SOURCE)
    before = outside(w)
    fds = [w.file([1], by=pid)]
    for _ in range(80):
        op = rng.choice([*NAMED, "link", "rename", "list", "close", "dup"])
        args: dict[str, Any] = {"path": rng.choice(POOL), **NAMED.get(op, {})}
        if op == "open":
            args |= {"flags": rng.choice((0, CREAT, RDWR, CREAT | RDWR))}
        elif op in ("listdir", "watch"):
            args |= {"recursive": rng.random() < 0.5}
        elif op == "mkdir":
            args |= {"parents": rng.random() < 0.5}
        elif op == "link":
            args |= {"fd": rng.choice(fds), "replace": rng.random() < 0.5}
        elif op == "rename":
            args = {"old": rng.choice(POOL), "new": rng.choice(POOL)}
        elif op == "list":
            args = {"prefix": rng.choice(POOL)}
        elif op in ("close", "dup"):
            args = {"fd": rng.choice(fds)}
        call = w.start(op, by=pid, **args)
        answer = w.replies.get((pid, call))
        fds += [answer.fd] if hasattr(answer, "fd") else []
        shown = [answer.file] if hasattr(answer, "file") else getattr(answer, "files", ())
        events = [event for part in w.stream(call, pid) for event in part.events]
        for path in [*(stat.path for stat in shown), *(event.path for event in events)]:
            assert path is None or leads_within(w.kernel.processes[Pid(pid)].cred, path), (op, args, path)
    w.reap()

    assert outside(w) == before
    w.kernel.check()
