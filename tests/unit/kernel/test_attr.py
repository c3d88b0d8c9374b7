from math import inf, nan

import pytest

from tests.unit.kernel.world import OTHER, SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.types import OpenFlags
from vllm_symphony.kernel.effect import DropFile
from vllm_symphony.kernel.syscall import attr

RDWR, CREAT = int(OpenFlags.RDWR), int(OpenFlags.CREAT)


def attributes(w: World, **of: object) -> dict[str, str]:
    found: dict[str, str] = w("listxattr", **of).attributes
    return found


def test_attributes_are_set_read_listed_by_name_and_removed(w: World) -> None:
    fd = w("open", path="/f", flags=CREAT | RDWR).fd

    w("setxattr", fd=fd, name="source", value="handbook")
    w("setxattr", path="/f", name="lang", value="en")
    w("setxattr", path="/f", name="lang", value="de")

    assert list(attributes(w, path="/f").items()) == [("lang", "de"), ("source", "handbook")]
    assert w("getxattr", fd=fd, name="lang").attributes == {"lang": "de"}
    w("removexattr", path="/f", name="lang")
    assert attributes(w, fd=fd) == {"source": "handbook"}


def test_directories_and_anonymous_files_have_them_too(w: World) -> None:
    w("mkdir", path="/d")
    fd = w.file()

    w("setxattr", path="/d", name="kind", value="library")
    w("setxattr", fd=fd, name="kind", value="draft")

    assert attributes(w, path="/d") == {"kind": "library"} and attributes(w, fd=fd) == {"kind": "draft"}


def test_a_fork_begins_without_its_sources_attributes(w: World) -> None:
    fd = w.file()
    w("setxattr", fd=fd, name="kind", value="draft")

    assert attributes(w, fd=w("fork", fd=fd).fd) == {}


def test_create_and_replace_say_what_must_be_there(w: World) -> None:
    w("open", path="/f", flags=CREAT)

    with pytest.raises(errors.NoAttribute):
        w("setxattr", path="/f", name="a", value="1", replace=True)
    w("setxattr", path="/f", name="a", value="1", create=True)
    with pytest.raises(errors.FileExists):
        w("setxattr", path="/f", name="a", value="2", create=True)
    w("setxattr", path="/f", name="a", value="3", replace=True)

    assert attributes(w, path="/f") == {"a": "3"}
    for op in ("getxattr", "removexattr"):
        with pytest.raises(errors.NoAttribute):
            w(op, path="/f", name="b")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"name": "", "value": ""}, errors.InvalidArgument),
        ({"name": "x" * 256, "value": ""}, errors.InvalidArgument),
        ({"name": "a\0b", "value": ""}, errors.InvalidArgument),
        ({"name": "\ud800", "value": ""}, errors.InvalidArgument),
        ({"name": "a", "value": "\ud800"}, errors.InvalidArgument),
        ({"name": "a", "value": "x" * (attr.MAX_VALUE_BYTES + 1)}, errors.InvalidArgument),
        ({"name": "a", "value": "", "create": True, "replace": True}, errors.InvalidArgument),
    ],
)
def test_what_is_no_attribute_is_refused(w: World, args: dict, error: type[Exception]) -> None:
    w("open", path="/f", flags=CREAT)

    with pytest.raises(error):
        w("setxattr", path="/f", **args)

    assert attributes(w, path="/f") == {}


def test_there_is_room_for_so_many_and_so_much(w: World) -> None:
    w("open", path="/many", flags=CREAT)
    w("open", path="/large", flags=CREAT)
    for number in range(attr.MAX_ATTRIBUTES):
        w("setxattr", path="/many", name=f"a{number}", value="")
    value = "x" * attr.MAX_VALUE_BYTES
    for number in range(15):
        w("setxattr", path="/large", name=f"a{number}", value=value)

    for path, args in (("/many", {"name": "more", "value": ""}), ("/large", {"name": "more", "value": value})):
        with pytest.raises(errors.QuotaExceeded):
            w("setxattr", path=path, **args)

    w("setxattr", path="/many", name="a0", value="another")
    w("setxattr", path="/large", name="a0", value=value[::-1])
    w("setxattr", path="/large", name="more", value="little")


def test_an_fd_for_reading_sets_none(w: World) -> None:
    w("open", path="/f", flags=CREAT)
    fd = w("open", path="/f").fd

    for op, args in (("setxattr", {"name": "a", "value": ""}), ("removexattr", {"name": "a"})):
        with pytest.raises(errors.BadFile):
            w(op, fd=fd, **args)


def test_on_a_sticky_directory_only_its_owner_sets_them(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    w("mkdir", path="/d", mode=0o1777)
    w("chmod", path="/d", mode=0o1777)

    w("setxattr", path="/d", name="a", value="")
    with pytest.raises(errors.NotOwner):
        w("setxattr", by=other, path="/d", name="a", value="mine")


# ---- how it is kept


def test_a_directorys_word_on_keeping_is_for_all_below_it(w: World) -> None:
    w("mkdir", path="/a/b", parents=True)
    fd = w("open", path="/a/b/f", flags=CREAT).fd
    assert w("stat", fd=fd).file.durable == "tokens"

    w("chattr", path="/a", durable="pages")
    assert (w("stat", fd=fd).file.durable, w("stat", path="/a/b").file.durable) == ("pages", "")
    w("chattr", path="/a/b", durable="none")
    assert w("stat", fd=fd).file.durable == "none"
    w("link", fd=fd, path="/a/also")
    assert w("stat", fd=fd).file.durable == "pages", "of several names the strongest"
    w("rename", old="/a/also", new="/tmp/also")
    assert w("stat", fd=fd).file.durable == "none"
    w("chattr", path="/a/b", durable="")
    assert w("stat", fd=fd).file.durable == "pages"
    w("unlink", path="/a/b/f")
    w("unlink", path="/tmp/also")
    assert w("stat", fd=fd).file.durable == "none"


@pytest.mark.parametrize(
    ("path", "args"),
    [
        ("/d", {"durable": "for ever"}),
        ("/d", {"expires_s": 1.0}),
        ("/d", {"ttl_s": -1.0}),
        ("/d", {"ttl_s": nan}),
        ("/f", {"durable": "none"}),
        ("/f", {"ttl_s": 1.0}),
        ("/f", {"expires_s": -1.0}),
        ("/f", {"expires_s": nan}),
    ],
)
def test_what_is_no_word_on_keeping_is_refused(w: World, path: str, args: dict) -> None:
    w("mkdir", path="/d")
    w("open", path="/f", flags=CREAT)
    before = w("listdir")

    with pytest.raises(errors.InvalidArgument):
        w("chattr", path=path, **args)

    assert w("listdir") == before


# ---- how long it lives


def test_a_file_expires_with_all_its_names_and_lives_on_while_open(w: World) -> None:
    fd = w("open", path="/f", tokens=[1], flags=CREAT).fd
    w("link", fd=fd, path="/g")
    told: list[tuple[str, str, str]] = []
    w.kernel.files.on_change.append(lambda node, kind, path, new, detail: told.append((kind, path, detail)))

    w("chattr", path="/f", expires_s=60.0)
    assert w("stat", fd=fd).file.expires_ns == (1000 + 60) * SECOND
    w.pass_time(59)
    assert len(w("list").files) == 2
    w.pass_time(1)

    assert w("list").files == ()
    assert told == [("attrib", "", ""), ("delete", "/f", "expired"), ("delete", "/g", "expired")]
    assert w.tokens(fd) == [1] and w("stat", fd=fd).file.expires_ns is None
    w("close", fd=fd)
    assert len(w.sent(DropFile)) == 1


def test_a_later_word_on_expiry_counts_and_zero_is_never(w: World) -> None:
    w("close", fd=w("open", path="/f", flags=CREAT).fd)

    w("chattr", path="/f", expires_s=10.0)
    w("chattr", path="/f", expires_s=100.0)
    w.pass_time(50)
    assert len(w("list").files) == 1
    w("chattr", path="/f", expires_s=0.0)
    w.pass_time(100)
    assert w("stat", path="/f").file.expires_ns is None
    w("chattr", path="/f", expires_s=inf)
    w.pass_time(100)

    assert len(w("list").files) == 1


def test_what_is_made_in_a_directory_with_a_time_to_live_expires(w: World) -> None:
    w("mkdir", path="/d")
    w("open", path="/d/before", flags=CREAT)
    w("chattr", path="/d", ttl_s=30.0)
    w("mkdir", path="/d/deep")

    w("open", path="/d/a", flags=CREAT)
    w("open", path="/d/deep/b", flags=CREAT)
    w("link", fd=w.file(), path="/d/c")
    w("open", path="/outside", flags=CREAT)
    w("rename", old="/outside", new="/d/moved")
    assert w("stat", path="/d/deep").file.ttl_s == 30.0
    w.pass_time(30)

    assert [f.path for f in w("list").files] == ["/d/before", "/d/moved"]
    assert w("stat", path="/d/deep").file.kind == "dir"


def test_a_file_with_an_expiry_keeps_nothing_busy_and_leaves_no_alarm(w: World) -> None:
    fd = w("open", path="/f", flags=CREAT).fd
    w("chattr", fd=fd, expires_s=60.0)
    w("close", fd=fd)

    assert w.kernel.next_deadline_ns() == 60 * SECOND
    w("unlink", path="/f")
    assert w.kernel.next_deadline_ns() is None


def test_an_expiry_does_not_count_as_something_that_goes_on() -> None:
    w = World()
    w("open", path="/f", flags=CREAT)
    w("chattr", path="/f", expires_s=60.0)

    w.disconnect()

    w.assert_empty()


def test_below_a_directory_that_keeps_nothing_nothing_can_be_promised(w: World) -> None:
    w("mkdir", path="/tmp/d")

    for durable in ("tokens", "pages"):
        with pytest.raises(errors.InvalidArgument, match="/tmp keeps nothing"):
            w("chattr", path="/tmp/d", durable=durable)
    assert w("stat", path="/tmp/d").file.durable == ""
    w("chattr", path="/tmp/d", durable="none")
