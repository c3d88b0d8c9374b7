import pytest

from tests.unit.kernel.world import ADMIN, ME, MODEL, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import OpenFlags, unpack_tokens
from vllm_symphony.kernel.effect import AppendTokens, DropFile, ForkFile, TruncateFile

RDONLY, RDWR, CREAT, EXCL, TRUNC, TMPFILE = 0, *(int(f) for f in OpenFlags if f)


def test_open_with_tokens_makes_an_anonymous_file(w: World) -> None:
    result = w("open", tokens=[1, 2, 3])

    assert (result.fd, result.length) == (3, 3)
    assert w.tokens(result.fd) == [1, 2, 3]
    assert w("stat", fd=result.fd).file.path is None


def test_a_named_file_outlives_its_fds(w: World) -> None:
    fd = w("open", path="/a", tokens=[1, 2], flags=CREAT | RDWR).fd
    w("close", fd=fd)

    again = w("open", path="/a")

    assert again.length == 2
    assert w.sent(DropFile) == []


def test_an_anonymous_file_goes_with_its_last_fd(w: World) -> None:
    fd = w.file()
    second = w("dup", fd=fd).fd

    w("close", fd=fd)
    assert w.sent(DropFile) == []
    w("close", fd=second)

    assert len(w.sent(DropFile)) == 1


def test_an_unlinked_file_lives_while_it_is_open(w: World) -> None:
    fd = w("open", path="/a", tokens=[1], flags=CREAT).fd

    w("unlink", path="/a")

    assert w.tokens(fd) == [1]
    with pytest.raises(errors.NoSuchFile):
        w("open", path="/a")


def test_fds_are_never_used_twice(w: World) -> None:
    first = w.file()
    w("close", fd=first)

    assert w.file() != first
    with pytest.raises(errors.BadFile):
        w("stat", fd=first)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("a", errors.InvalidArgument),
        ("", errors.InvalidArgument),
        ("/a/", errors.InvalidArgument),
        ("//a", errors.InvalidArgument),
        ("/a/./b", errors.InvalidArgument),
        ("/../a", errors.InvalidArgument),
        ("/a\0b", errors.InvalidArgument),
        ("/\ud800", errors.InvalidArgument),
        ("/" + "x" * 256, errors.NameTooLong),
        ("/" + "ä" * 130, errors.NameTooLong),
    ],
)
def test_a_bad_name_is_refused(w: World, path: str, error: type[Exception]) -> None:
    for op, args in (("open", {"path": path, "flags": CREAT}), ("unlink", {"path": path}), ("stat", {"path": path})):
        with pytest.raises(error):
            w(op, **args)
    fd = w.file()
    with pytest.raises(error):
        w("link", fd=fd, path=path)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({}, errors.InvalidArgument),
        ({"path": "/none"}, errors.NoSuchFile),
        ({"path": "/none", "tokens": [1]}, errors.InvalidArgument),
        ({"path": "/a", "tokens": [1]}, errors.InvalidArgument),
        ({"path": "/a", "tokens": [1], "flags": CREAT}, errors.FileExists),
        ({"path": "/a", "flags": CREAT | EXCL}, errors.FileExists),
        ({"path": "/b", "flags": EXCL}, errors.InvalidArgument),
        ({"path": "/a", "flags": TRUNC}, errors.InvalidArgument),
        ({"path": "/b", "flags": TMPFILE}, errors.InvalidArgument),
        ({"path": "/b", "flags": 1024}, errors.InvalidArgument),
        ({"path": "/b", "flags": CREAT, "mode": 0o1000}, errors.InvalidArgument),
        ({"tokens": [1], "flags": CREAT}, errors.InvalidArgument),
        ({"tokens": [1, 100]}, errors.InvalidArgument),
        ({"tokens": b"abc"}, errors.InvalidArgument),
        ({"tokens": [0] * 65}, errors.ContextTooLong),
    ],
)
def test_open_refuses_and_changes_nothing(w: World, args: dict, error: type[Exception]) -> None:
    w("close", fd=w("open", path="/a", flags=CREAT).fd)
    before = w.kernel.counters()

    with pytest.raises(error):
        w("open", **args)

    assert w.kernel.counters() == {**before, "calls_ended": before["calls_ended"] + 1}


def test_a_bad_token_is_named_with_its_index(w: World) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        w("open", tokens=[1, 100, 101])

    assert caught.value.values == {"index": 1, "token": 100}


def test_open_trunc_empties_the_file(w: World) -> None:
    w("open", path="/a", tokens=[1, 2], flags=CREAT)

    assert w("open", path="/a", flags=RDWR | TRUNC).length == 0


def test_a_full_fd_table_is_emfile(w: World) -> None:
    w = World(fds=2)
    fd = w.file()
    w("dup", fd=fd)

    for op, args in (("open", {"tokens": [1]}), ("dup", {"fd": fd}), ("fork", {"fd": fd})):
        with pytest.raises(errors.TooManyFiles):
            w(op, **args)
    w.check()


def test_too_many_files_is_edquot(w: World) -> None:
    w = World(files=1)
    fd = w.file()

    with pytest.raises(errors.QuotaExceeded):
        w("fork", fd=fd)
    w.check()


def test_read_only_fds_refuse_writes(w: World) -> None:
    w("open", path="/a", tokens=[1], flags=CREAT)
    fd = w("open", path="/a").fd

    for op, args in (
        ("append", {"tokens": [1]}),
        ("truncate", {"length": 0}),
        ("forward", {"tokens": [1]}),
        ("generate", {}),
    ):
        with pytest.raises(errors.BadFile):
            w(op, fd=fd, **args)


def test_a_foreign_fd_is_ebadf(w: World) -> None:
    fd = w.file()
    program = w.program()

    with pytest.raises(errors.BadFile):
        w("read", by=program, fd=fd)


def test_an_edge_keeps_the_fds_of_principals_apart(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)
    call = w.start("open", by=edge, cred=OTHER, tokens=[1])
    fd = w.result(call, edge).fd

    mine = w.start("read", by=edge, cred=ME, fd=fd)

    with pytest.raises(errors.BadFile):
        w.result(mine, edge)


def test_modes_keep_other_principals_out(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    w("open", path="/private", tokens=[1], flags=CREAT)
    w("open", path="/shown", tokens=[1], flags=CREAT, mode=0o604)

    assert w("open", by=other, path="/shown").length == 1
    assert [f.path for f in w("list", by=other).files] == ["/shown"]
    for op, args in (
        ("open", {"path": "/private"}),
        ("open", {"path": "/shown", "flags": RDWR}),
        ("read", {"path": "/private"}),
        ("stat", {"path": "/private"}),
    ):
        with pytest.raises(errors.AccessDenied):
            w(op, by=other, **args)
    for op, args in (("unlink", {"path": "/shown"}), ("rename", {"old": "/shown", "new": "/x"})):
        with pytest.raises(errors.NotOwner):
            w(op, by=other, **args)


def test_admin_passes_every_mode(w: World) -> None:
    admin = w.kernel.connect(ADMIN, "client", 0)
    w("open", path="/private", tokens=[1], flags=CREAT, mode=0)

    assert w("open", by=admin, path="/private", flags=RDWR).length == 1
    w("unlink", by=admin, path="/private")


def test_fork_shares_what_the_source_holds(w: World) -> None:
    fd = w.file([1, 2, 3])

    copy = w("fork", fd=fd)
    w("append", fd=copy.fd, tokens=[4])

    assert (w.tokens(fd), w.tokens(copy.fd)) == ([1, 2, 3], [1, 2, 3, 4])
    assert w.sent(ForkFile)[0].length == 3


def test_append_keeps_positions_with_gaps(w: World) -> None:
    fd = w.file([1, 2])

    assert w("append", fd=fd, tokens=[3, 4], start=10).length == 4
    w("append", fd=fd, tokens=[5])

    assert unpack_tokens(w("read", fd=fd).positions) == [0, 1, 10, 11, 12]
    assert unpack_tokens(w("read", fd=fd, offset=1, count=2).positions) == [1, 10]
    assert [(a.start, a.tokens) for a in w.sent(AppendTokens)] == [(10, [3, 4]), (12, [5])]


def test_append_refuses_going_back_and_past_the_end(w: World) -> None:
    fd = w.file([1, 2])

    with pytest.raises(errors.InvalidArgument):
        w("append", fd=fd, tokens=[3], start=1)
    with pytest.raises(errors.ContextTooLong):
        w("append", fd=fd, tokens=[3], start=64)
    with pytest.raises(errors.ContextTooLong):
        w("append", fd=fd, tokens=range(63))
    with pytest.raises(errors.StaleFile) as caught:
        w("append", fd=fd, tokens=[3], at=1)

    assert caught.value.values["length"] == 2
    assert w.tokens(fd) == [1, 2]


def test_truncate_rolls_back(w: World) -> None:
    fd = w.file([1, 2, 3, 4])
    w("append", fd=fd, tokens=[5], start=20)

    w("truncate", fd=fd, length=2, at=5)

    assert w.tokens(fd) == [1, 2]
    w("append", fd=fd, tokens=[9])
    assert unpack_tokens(w("read", fd=fd).positions) == [0, 1, 2]
    assert [t.length for t in w.sent(TruncateFile)] == [2]


def test_truncate_refuses_bad_lengths(w: World) -> None:
    fd = w.file([1, 2])

    for length in (-1, 3):
        with pytest.raises(errors.InvalidArgument):
            w("truncate", fd=fd, length=length)
    with pytest.raises(errors.StaleFile):
        w("truncate", fd=fd, length=1, at=3)


def test_read_gives_what_is_there(w: World) -> None:
    fd = w.file([1, 2, 3])
    w("link", fd=fd, path="/a")

    assert unpack_tokens(w("read", path="/a", offset=1).tokens) == [2, 3]
    assert w("read", fd=fd, offset=9).tokens == b""
    for args in ({"fd": fd, "path": "/a"}, {}, {"fd": fd, "offset": -1}, {"fd": fd, "count": -1}):
        with pytest.raises(errors.InvalidArgument):
            w("read", **args)


def test_rename_replaces_at_once(w: World) -> None:
    w("open", path="/a", tokens=[1], flags=CREAT)
    w("close", fd=w("open", path="/b", tokens=[2], flags=CREAT).fd)

    w("rename", old="/a", new="/b")

    assert unpack_tokens(w("read", path="/b").tokens) == [1]
    assert [f.path for f in w("list").files] == ["/b"]
    assert len(w.sent(DropFile)) == 1
    with pytest.raises(errors.NoSuchFile):
        w("rename", old="/a", new="/c")


def test_rename_between_two_names_of_one_file_does_nothing(w: World) -> None:
    fd = w("open", path="/a", tokens=[1], flags=CREAT).fd
    w("link", fd=fd, path="/b")

    w("rename", old="/a", new="/b")

    assert w("stat", fd=fd).file.nlink == 2


def test_link_refuses_a_taken_name(w: World) -> None:
    fd = w("open", path="/a", tokens=[1], flags=CREAT).fd

    with pytest.raises(errors.FileExists):
        w("link", fd=fd, path="/a")


def test_list_is_sorted_and_filtered_by_prefix(w: World) -> None:
    w("mkdir", path="/a")
    for path in ("/b", "/a/2", "/a/1"):
        w("open", path=path, flags=CREAT)

    assert [f.path for f in w("list", prefix="/a/").files] == ["/a/1", "/a/2"]
    assert [f.path for f in w("list").files] == ["/a/1", "/a/2", "/b"]


def test_stat_counts_pages_of_what_is_computed(w: World) -> None:
    fd = w.file(range(5))
    assert w("stat", fd=fd).file.num_pages == 0

    w.start("forward", fd=fd, tokens=[1])
    assert w("stat", fd=fd).file.busy
    w.step()

    stat = w("stat", fd=fd).file
    assert (stat.length, stat.frontier, stat.num_pages, stat.busy) == (6, 6, -(-6 // MODEL.page_size), False)
    assert stat.created_ns == 1000_000_000_000


def test_control_calls_wait_for_no_step(w: World) -> None:
    fd = w.file([1, 2])
    w.start("forward", fd=fd, tokens=[3])

    assert w("fork", fd=fd).length == 2
    assert w("stat", fd=fd).file.length == 2
    assert w.tokens(fd) == [1, 2]
    for op, args in (("append", {"tokens": [1]}), ("truncate", {"length": 0})):
        with pytest.raises(errors.FileBusy):
            w(op, fd=fd, **args)
