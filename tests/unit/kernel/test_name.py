import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import OpenFlags, unpack_tokens
from vllm_symphony.kernel.effect import CreateFile, DropFile

RDONLY, RDWR, CREAT, EXCL, TRUNC, TMPFILE = 0, *(int(f) for f in OpenFlags if f)


def make(w: World, path: str, tokens: tuple[int, ...] = (1,), **more: object) -> int:
    """A named file without an fd: its ino."""
    made = w("open", path=path, tokens=list(tokens), flags=CREAT, **more)
    w("close", fd=made.fd)
    ino: int = made.ino
    return ino


def names(w: World, path: str = "/", **more: object) -> list[str]:
    """What listdir shows, beside what is always in the root."""
    fixed = ("/home", "/proc", "/tmp")
    return [f.path for f in w("listdir", path=path, **more).files if f.path not in fixed]


def test_the_tree_begins_with_tmp_and_home(w: World) -> None:
    shown = {f.path: (f.kind, f.mode, f.owner, f.durable) for f in w("listdir").files}

    assert shown == {
        "/home": ("dir", 0o755, "root", ""),
        "/proc": ("dir", 0o555, "root", "none"),
        "/tmp": ("dir", 0o1777, "root", "none"),
    }
    root = w("stat", path="/").file
    assert (root.ino, root.path, root.kind, root.mode, root.durable) == (1, "/", "dir", 0o1777, "tokens")


def test_a_home_is_there_when_its_principal_asks_and_is_private(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    assert names(w, "/home") == []

    make(w, "/home/me/draft")

    home = w("stat", path="/home/me").file
    assert (home.owner, home.group, home.mode) == ("me", "me", 0o700)
    for op, args in (("listdir", {"path": "/home/me"}), ("stat", {"path": "/home/me/draft"}), ("stat", {"path": "/home/me"})):
        with pytest.raises(errors.AccessDenied):
            w(op, by=other, **args)
    with pytest.raises(errors.NoSuchFile):
        w("stat", path="/home/nobody")
    assert names(w, "/home", by=other) == []


def test_a_directory_holds_files_and_directories(w: World) -> None:
    w("mkdir", path="/kb")
    w("mkdir", path="/kb/deep", mode=0o700)
    make(w, "/kb/deep/b")
    make(w, "/kb/a")

    assert names(w, "/kb") == ["/kb/a", "/kb/deep"]
    assert names(w, recursive=True) == ["/kb", "/kb/a", "/kb/deep", "/kb/deep/b"]
    assert [f.path for f in w("list", prefix="/kb").files] == ["/kb/a", "/kb/deep/b"]
    deep = w("stat", path="/kb/deep").file
    assert (deep.kind, deep.mode, deep.owner, deep.group, deep.nlink, deep.length) == ("dir", 0o700, "me", "me", 1, 0)
    assert len(w.sent(CreateFile)) == 2, "the device knows files only"


@pytest.mark.parametrize(
    ("op", "args", "error"),
    [
        ("open", {"path": "/none/a", "flags": CREAT}, errors.NoSuchFile),
        ("open", {"path": "/f/a", "flags": CREAT}, errors.NotDirectory),
        ("open", {"path": "/f/a"}, errors.NotDirectory),
        ("open", {"path": "/f/a/b", "flags": CREAT}, errors.NotDirectory),
        ("open", {"path": "/d"}, errors.IsDirectory),
        ("open", {"path": "/d", "flags": CREAT}, errors.IsDirectory),
        ("open", {"path": "/"}, errors.IsDirectory),
        ("open", {"path": "/", "flags": CREAT}, errors.IsDirectory),
        ("open", {"path": "/d", "flags": CREAT | EXCL}, errors.FileExists),
        ("open", {"path": "/proc", "flags": CREAT}, errors.ReadOnly),
        ("read", {"path": "/d"}, errors.IsDirectory),
        ("mkdir", {"path": "/d"}, errors.FileExists),
        ("mkdir", {"path": "/f"}, errors.FileExists),
        ("mkdir", {"path": "/f", "parents": True}, errors.FileExists),
        ("mkdir", {"path": "/"}, errors.FileExists),
        ("mkdir", {"path": "/none/d"}, errors.NoSuchFile),
        ("mkdir", {"path": "/f/d", "parents": True}, errors.NotDirectory),
        ("mkdir", {"path": "/proc/d"}, errors.ReadOnly),
        ("mkdir", {"path": "/proc/d/e", "parents": True}, errors.ReadOnly),
        ("mkdir", {"path": "/new", "mode": 0o10000}, errors.InvalidArgument),
        ("rmdir", {"path": "/d"}, errors.NotEmpty),
        ("rmdir", {"path": "/f"}, errors.NotDirectory),
        ("rmdir", {"path": "/none"}, errors.NoSuchFile),
        ("rmdir", {"path": "/"}, errors.FileBusy),
        ("rmdir", {"path": "/tmp"}, errors.FileBusy),
        ("rmdir", {"path": "/proc"}, errors.ReadOnly),
        ("unlink", {"path": "/d"}, errors.IsDirectory),
        ("unlink", {"path": "/"}, errors.IsDirectory),
        ("unlink", {"path": "/f/a"}, errors.NotDirectory),
        ("unlink", {"path": "/proc/self/status"}, errors.ReadOnly),
        ("listdir", {"path": "/f"}, errors.NotDirectory),
        ("listdir", {"path": "/none"}, errors.NoSuchFile),
        ("rename", {"old": "/d", "new": "/f"}, errors.NotDirectory),
        ("rename", {"old": "/f", "new": "/d"}, errors.IsDirectory),
        ("rename", {"old": "/e", "new": "/d"}, errors.NotEmpty),
        ("rename", {"old": "/d", "new": "/d/in/itself"}, errors.NoSuchFile),
        ("rename", {"old": "/d", "new": "/d/sub/itself"}, errors.InvalidArgument),
        ("rename", {"old": "/d", "new": "/d/itself"}, errors.InvalidArgument),
        ("rename", {"old": "/none", "new": "/g"}, errors.NoSuchFile),
        ("rename", {"old": "/f", "new": "/none/g"}, errors.NoSuchFile),
        ("rename", {"old": "/f", "new": "/f/g"}, errors.NotDirectory),
        ("rename", {"old": "/f", "new": "/"}, errors.IsDirectory),
        ("rename", {"old": "/", "new": "/g"}, errors.IsDirectory),
        ("rename", {"old": "/f", "new": "/proc/g"}, errors.ReadOnly),
        ("rename", {"old": "/f/x", "new": "/g"}, errors.NotDirectory),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(w: World, op: str, args: dict, error: type[Exception]) -> None:
    for path in ("/d", "/d/sub", "/e"):
        w("mkdir", path=path)
    make(w, "/f")
    before = w("listdir", recursive=True)

    with pytest.raises(error):
        w(op, **args)

    assert w("listdir", recursive=True) == before


def test_not_even_an_admin_takes_away_or_moves_what_is_always_there(w: World) -> None:
    admin = w.kernel.connect(ADMIN, "client", 0)

    for path in ("/tmp", "/home"):
        with pytest.raises(errors.FileBusy):
            w("rmdir", by=admin, path=path)
        with pytest.raises(errors.InvalidArgument):
            w("rename", by=admin, old=path, new="/elsewhere")


def test_not_even_an_admin_moves_something_over_what_is_always_there(w: World) -> None:
    admin = w.kernel.connect(ADMIN, "client", 0)
    w("mkdir", by=admin, path="/mine")

    for path in ("/tmp", "/home"):
        with pytest.raises(errors.InvalidArgument):
            w("rename", by=admin, old="/mine", new=path)
    w.check()


def test_mkdir_with_parents_makes_what_is_missing_and_minds_nothing_that_is_there(w: World) -> None:
    w("mkdir", path="/a", mode=0o700)

    w("mkdir", path="/a/b/c", mode=0o750, parents=True)
    w("mkdir", path="/a/b/c", parents=True)
    w("mkdir", path="/", parents=True)

    assert names(w, recursive=True) == ["/a", "/a/b", "/a/b/c"]
    assert [w("stat", path=path).file.mode for path in ("/a", "/a/b", "/a/b/c")] == [0o700, 0o755, 0o750]


def test_parents_are_made_so_that_their_maker_gets_through(w: World) -> None:
    w("umask", mask=0o777)

    w("mkdir", path="/a/b", parents=True)

    assert [w("stat", path=path).file.mode for path in ("/a", "/a/b")] == [0o300, 0]


def test_an_empty_directory_goes(w: World) -> None:
    w("mkdir", path="/d")
    make(w, "/d/f")
    w("unlink", path="/d/f")

    w("rmdir", path="/d")

    assert names(w) == []


def test_a_moved_directory_takes_along_what_is_in_it(w: World) -> None:
    w("mkdir", path="/a/b", parents=True)
    ino = make(w, "/a/b/f", tokens=(5, 6))
    w("mkdir", path="/z")
    fd = w("open", path="/a/b/f").fd

    w("rename", old="/a/b", new="/z/c")

    assert names(w, recursive=True) == ["/a", "/z", "/z/c", "/z/c/f"]
    assert w("stat", fd=fd).file.path == "/z/c/f"
    assert w("open", path="/z/c/f").ino == ino
    with pytest.raises(errors.NoSuchFile):
        w("stat", path="/a/b/f")
    assert w.sent(DropFile) == []


def test_a_directory_replaces_an_empty_one(w: World) -> None:
    w("mkdir", path="/a")
    make(w, "/a/f")
    w("mkdir", path="/b")

    w("rename", old="/a", new="/b")

    assert names(w, recursive=True) == ["/b", "/b/f"]


def test_a_directory_onto_itself_stays(w: World) -> None:
    w("mkdir", path="/a")
    make(w, "/a/f")

    w("rename", old="/a", new="/a")

    assert names(w, recursive=True) == ["/a", "/a/f"]


def test_a_file_that_is_replaced_while_open_lives_on(w: World) -> None:
    w("mkdir", path="/a")
    make(w, "/a/new", tokens=(7,))
    fd = w("open", path="/old", tokens=[8, 9], flags=CREAT | RDWR).fd

    w("rename", old="/a/new", new="/old")
    w("append", fd=fd, tokens=[10])

    assert w.tokens(fd) == [8, 9, 10]
    stat = w("stat", fd=fd).file
    assert (stat.nlink, stat.path) == (0, None)
    assert unpack_tokens(w("read", path="/old").tokens) == [7]


def test_one_file_has_names_in_several_directories(w: World) -> None:
    w("mkdir", path="/a")
    w("mkdir", path="/b")
    fd = w("open", path="/a/x", tokens=[1], flags=CREAT | RDWR).fd
    w("link", fd=fd, path="/b/y")
    w("append", fd=fd, tokens=[2])

    assert unpack_tokens(w("read", path="/b/y").tokens) == [1, 2]
    assert [(f.path, f.nlink) for f in w("list").files] == [("/a/x", 2), ("/b/y", 2)]
    w("unlink", path="/a/x")
    assert w("stat", fd=fd).file.path == "/b/y"


def test_link_with_replace_takes_the_name_at_once(w: World) -> None:
    victim = make(w, "/doc", tokens=(1,))
    fd = w.file([2, 3])

    w("link", fd=fd, path="/doc", replace=True)
    w("link", fd=fd, path="/doc", replace=True)

    assert unpack_tokens(w("read", path="/doc").tokens) == [2, 3]
    assert [e.ino for e in w.sent(DropFile)] == [victim]
    w("mkdir", path="/d")
    with pytest.raises(errors.IsDirectory):
        w("link", fd=fd, path="/d", replace=True)


def test_the_longest_names_and_paths_are_taken(w: World) -> None:
    name = "ä" * 127 + "x"
    path = ""
    for _ in range(15):
        path += f"/{name}"
        w("mkdir", path=path)
    last = path + "/" + "y" * (4096 - len(path.encode()) - 1)

    assert w("open", path=last, flags=CREAT).length == 0
    for longer in (last + "z", f"/{name}z", "/" + "a/" * 2048):
        with pytest.raises(errors.NameTooLong):
            w("stat", path=longer)


def test_directories_count_as_files_do() -> None:
    w = World(files=2)
    w("mkdir", path="/a")
    w.file()

    for op, args in (("mkdir", {"path": "/b"}), ("open", {"tokens": [1]}), ("mkdir", {"path": "/a/b/c", "parents": True})):
        with pytest.raises(errors.QuotaExceeded):
            w(op, **args)
    assert w("listdir", path="/home/me").files == (), "a home is always had"
    w.check()


@pytest.mark.parametrize("minor", [1, 2])
def test_parents_are_all_made_or_none(minor: int) -> None:
    w = World(files=4)
    by = w.kernel.connect(ME, "client", 0, minor=minor)
    calls = [("mkdir", {"path": "/a/b/c/d/e", "parents": True})]
    if minor == 1:
        calls += [("open", {"path": "/a/b/c/d/e", "flags": CREAT})]

    for op, args in calls:
        with pytest.raises(errors.QuotaExceeded):
            w(op, by=by, **args)
        assert names(w, recursive=True) == []

    w("mkdir", by=by, path="/a/b/c/d", parents=True)
    w.check()


@pytest.mark.parametrize("kind", ["client", "session", "edge"])
def test_what_was_written_for_abi_1_1_gets_its_directories_made(w: World, kind: str) -> None:
    old = w.kernel.connect(ME, "edge" if kind == "edge" else "client", 0, lease_s=9.0 if kind == "session" else 0.0, minor=1)
    other = w.kernel.connect(OTHER, "client", 0, minor=1)

    fd = w("open", by=old, path="/kb/deep/a", tokens=[1], flags=CREAT).fd
    w("link", by=old, fd=fd, path="/other/b")
    w("rename", by=old, old="/kb/deep/a", new="/new/c")
    w("open", by=other, path="/kb/deep/mine", tokens=[2], flags=CREAT)

    assert [f.path for f in w("list").files] == ["/new/c", "/other/b"]
    assert [f.path for f in w("list", by=other).files] == ["/kb/deep/mine"]
    assert w("stat", path="/kb").file.mode == 0o1777
    with pytest.raises(errors.NotOwner):
        w("unlink", by=other, path="/other/b")
    for path in ("/nothing/at/all", "/nothing/b"):
        with pytest.raises(errors.NoSuchFile):
            w("open", by=old, path=path)
    assert "/nothing" not in names(w)
    if kind == "session":
        w.kernel.end_session(old, "done", w.now_ns)
        w.drain()


@pytest.mark.parametrize(("abi", "error"), [("1.0", None), ("1.1", None), ("1.2", errors.NoSuchFile), ("", errors.NoSuchFile)])
def test_so_does_a_program_that_says_so(w: World, abi: str, error: type[Exception] | None) -> None:
    program = w.program(abi=abi)

    if error is None:
        w("open", by=program, path="/old/a", flags=CREAT)
    else:
        with pytest.raises(error):
            w("open", by=program, path="/old/a", flags=CREAT)


def test_an_old_program_makes_directories_only_where_it_may(w: World) -> None:
    old = w.kernel.connect(OTHER, "client", 0, minor=1)
    w("mkdir", path="/mine")

    with pytest.raises(errors.AccessDenied):
        w("open", by=old, path="/mine/deep/a", flags=CREAT)

    assert names(w, "/mine") == []


def test_what_changes_under_a_name_is_told_once(w: World) -> None:
    told: list[tuple[str, str, str, str]] = []
    w.kernel.files.on_change.append(lambda node, kind, path, new, detail: told.append((kind, path, new, detail)))

    w("mkdir", path="/d")
    fd = w("open", path="/d/a", tokens=[1], flags=CREAT | RDWR).fd
    w("append", fd=fd, tokens=[2])
    w("truncate", fd=fd, length=1)
    w.start("forward", fd=fd, tokens=[3])
    w.step()
    w("rename", old="/d/a", new="/b")
    w("rename", old="/d", new="/e")
    w("link", fd=w.file(), path="/b", replace=True)
    w("append", fd=fd, tokens=[4])
    w("unlink", path="/b")
    w("rmdir", path="/e")

    assert told == [
        ("create", "/d", "", ""),
        ("create", "/d/a", "", ""),
        ("modify", "", "", ""),
        ("modify", "", "", ""),
        ("modify", "", "", ""),
        ("move", "/d/a", "/b", ""),
        ("move", "/d", "/e", ""),
        ("delete", "/b", "", "replaced"),
        ("create", "/b", "", ""),
        ("delete", "/b", "", ""),
        ("delete", "/e", "", ""),
    ]
