import json

import pytest

from tests.unit.kernel.world import ADMIN, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import OpenFlags, unpack_tokens

RDWR, CREAT = int(OpenFlags.RDWR), int(OpenFlags.CREAT)


def paths(w: World, path: str, **more: object) -> list[str]:
    return [f.path for f in w("listdir", path=path, **more).files]


def test_proc_shows_the_callers_processes(w: World) -> None:
    program = w.program()
    mine, theirs = str(w.pid), str(w.kernel.connect(OTHER, "client", 0))

    assert paths(w, "/proc") == [*sorted([f"/proc/{mine}", f"/proc/{program}"]), "/proc/self"]
    assert paths(w, f"/proc/{program}") == [f"/proc/{program}/fd", f"/proc/{program}/status"]
    with pytest.raises(errors.NoSuchFile):
        w("stat", path=f"/proc/{theirs}")


def test_a_status_is_what_ps_shows(w: World) -> None:
    program = w.program()

    read = w("read", path=f"/proc/{program}/status")

    assert (read.tokens, read.length) == (b"", 0)
    assert json.loads(read.text)["pid"] == program and json.loads(read.text)["state"] == "running"
    stat = w("stat", path=f"/proc/{program}/status").file
    assert (stat.kind, stat.mode, stat.owner) == ("proc", 0o444, "me")
    assert json.loads(w("read", by=program, path="/proc/self/status").text)["pid"] == program


def test_an_fd_leads_to_the_open_file_itself(w: World) -> None:
    program = w.program()
    fd = w.file([1, 2], by=program)

    path = f"/proc/{program}/fd/{fd}"
    again = w("open", path=path, flags=RDWR).fd
    w("append", fd=again, tokens=[3])

    assert w.tokens(fd, by=program) == [1, 2, 3]
    assert unpack_tokens(w("read", path=path).tokens) == [1, 2, 3]
    assert paths(w, f"/proc/{program}/fd") == [path]
    shown = w("stat", path=path).file
    assert (shown.path, shown.kind, shown.length, shown.num_open) == (path, "file", 3, 2)
    assert w("stat", by=program, path=f"/proc/self/fd/{fd}").file.ino == shown.ino


def test_an_fd_that_is_closed_is_there_no_more(w: World) -> None:
    fd = w.file()
    w("close", fd=fd)

    assert paths(w, "/proc/self/fd") == []
    with pytest.raises(errors.NoSuchFile):
        w("open", path=f"/proc/self/fd/{fd}")


def test_a_path_into_a_file_needs_its_rights(w: World) -> None:
    w("open", path="/f", flags=CREAT)
    fd = w("open", path="/f").fd
    w("chmod", path="/f", mode=0o400)

    assert w("open", path=f"/proc/self/fd/{fd}").length == 0
    with pytest.raises(errors.AccessDenied):
        w("open", path=f"/proc/self/fd/{fd}", flags=RDWR)


def test_what_the_others_have_open_at_an_edge_is_hidden(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)
    w.start("open", by=edge, cred=OTHER, tokens=[1])
    mine = w.result(w.start("open", by=edge, cred=ADMIN, tokens=[1]), edge).fd

    with pytest.raises(errors.NoSuchFile):  # the edge is the server's, not this caller's
        w.result(w.start("listdir", by=edge, cred=OTHER, path="/proc/self"), edge)
    assert len(paths(w, "/proc/self/fd", by=edge, cred=ADMIN)) == 2, "an admin sees both"
    assert w.result(w.start("stat", by=edge, cred=ADMIN, path=f"/proc/self/fd/{mine}"), edge).file.length == 1


def test_all_that_is_below_is_listed_and_the_roots_list_stops_at_proc(w: World) -> None:
    fd = w.file()

    assert paths(w, "/proc/self", recursive=True) == ["/proc/self/fd", f"/proc/self/fd/{fd}", "/proc/self/status"]
    assert paths(w, "/", recursive=True) == ["/home", "/proc", "/tmp"]
    assert w("list").files == () and w("list", prefix="/proc/").files == ()


@pytest.mark.parametrize(
    ("op", "args", "error"),
    [
        ("open", {"path": "/proc/self/status"}, errors.InvalidArgument),
        ("open", {"path": "/proc/self"}, errors.IsDirectory),
        ("open", {"path": "/proc/self/new", "flags": CREAT}, errors.ReadOnly),
        ("read", {"path": "/proc/self/fd"}, errors.IsDirectory),
        ("read", {"path": "/proc/none"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/01"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/-1"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/0"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/٣"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/self/cwd"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/self/fd/0"}, errors.NoSuchFile),
        ("stat", {"path": "/proc/self/status/x"}, errors.NotDirectory),
        ("stat", {"path": "/proc/self/../x"}, errors.InvalidArgument),
        ("listdir", {"path": "/proc/self/status"}, errors.NotDirectory),
        ("mkdir", {"path": "/proc"}, errors.ReadOnly),
        ("mkdir", {"path": "/proc/x"}, errors.ReadOnly),
        ("rmdir", {"path": "/proc/self"}, errors.ReadOnly),
        ("unlink", {"path": "/proc/self/fd/3"}, errors.ReadOnly),
        ("rename", {"old": "/proc/self", "new": "/x"}, errors.ReadOnly),
        ("chmod", {"path": "/proc/self/status", "mode": 0o777}, errors.ReadOnly),
        ("chown", {"path": "/proc", "owner": "me"}, errors.ReadOnly),
        ("chattr", {"path": "/proc/self", "durable": "none"}, errors.ReadOnly),
        ("setxattr", {"path": "/proc/self/status", "name": "a", "value": ""}, errors.ReadOnly),
        ("removexattr", {"path": "/proc/self/status", "name": "a"}, errors.ReadOnly),
    ],
)
def test_proc_is_only_looked_at(w: World, op: str, args: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        w(op, **args)


def test_a_name_is_not_linked_into_proc(w: World) -> None:
    fd = w.file()

    for path in ("/proc", "/proc/self/fd/9"):
        with pytest.raises(errors.ReadOnly):
            w("link", fd=fd, path=path)


def test_what_has_ended_still_has_a_status(w: World) -> None:
    program = w.program()
    w.exited(program, 3)

    assert json.loads(w("read", path=f"/proc/{program}/status").text)["exit"]["code"] == 3
    assert paths(w, f"/proc/{program}/fd") == []
