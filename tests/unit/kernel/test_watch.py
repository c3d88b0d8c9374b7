"""`watch`: who is told what, and what a slow reader loses."""

from typing import Any

import pytest

from tests.unit.kernel.world import ADMIN, OTHER, SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import WatchPart
from vllm_symphony.abi.types import Credentials, FileEvent, OpenFlags
from vllm_symphony.kernel.effect import GenerateTokens

CREAT, RDWR = int(OpenFlags.CREAT), int(OpenFlags.RDWR)


class Watching:
    """One watch: what it was told."""

    def __init__(self, w: World, path: str = "/", *, by: int | None = None, recursive: bool = True) -> None:
        self.w, self.pid = w, by
        self.call = w.start("watch", by=by, path=path, recursive=recursive)

    @property
    def parts(self) -> list[WatchPart]:
        """After the first one, which is empty: it watches now."""
        first, *others = self.w.stream(self.call, self.pid)
        assert first == WatchPart(())
        return others

    def events(self) -> list[FileEvent]:
        return [event for part in self.parts for event in part.events]

    def told(self) -> list[tuple[str, ...]]:
        return [(e.kind, e.path, *([e.new_path] if e.new_path else [])) for e in self.events()]


def make(w: World, path: str, *, by: int | None = None, mode: int = 0o600) -> int:
    fd: int = w("open", by=by, path=path, tokens=[1], flags=CREAT | RDWR, mode=mode).fd
    return fd


@pytest.fixture
def other(w: World) -> int:
    w("umask", mask=0)
    w("mkdir", path="/kb", mode=0o777)
    return w.kernel.connect(OTHER, "client", 0)


def test_everything_that_happens_is_told_in_order(w: World) -> None:
    watch = Watching(w)
    w.pass_time(2)

    w("mkdir", path="/kb")
    fd = make(w, "/kb/a")
    w("append", fd=fd, tokens=[2])
    w("setxattr", fd=fd, name="topic", value="x")
    w("link", fd=fd, path="/kb/b")
    w("append", fd=fd, tokens=[3])
    w("rename", old="/kb/a", new="/kb/c")
    w("unlink", path="/kb/b")
    w("unlink", path="/kb/c")
    w("rmdir", path="/kb")

    assert watch.told() == [
        ("create", "/kb"), ("create", "/kb/a"), ("modify", "/kb/a"), ("attrib", "/kb/a"), ("create", "/kb/b"), ("modify", "/kb/a"),
        ("move", "/kb/a", "/kb/c"), ("delete", "/kb/b"), ("delete", "/kb/c"), ("delete", "/kb"),
    ]  # fmt: skip
    assert [event.seq for event in watch.events()] == sorted({event.seq for event in watch.events()})
    assert {event.t_ns for event in watch.events()} == {1002 * SECOND}
    w("cancel", target=watch.call)
    with pytest.raises(errors.Interrupted):
        w.result(watch.call)


def test_numbers_are_the_machines(w: World) -> None:
    make(w, "/unseen")
    first, second = Watching(w), Watching(w, "/tmp")
    make(w, "/tmp/a")
    make(w, "/b")
    make(w, "/tmp/c")

    assert [event.seq for event in first.events()] == [1, 2, 3]
    assert [event.seq for event in second.events()] == [1, 3]


def test_a_directory_is_watched_with_all_below_or_its_entries_alone(w: World) -> None:
    w("mkdir", path="/kb/deep", parents=True)
    deep, flat = Watching(w, "/kb"), Watching(w, "/kb", recursive=False)
    make(w, "/kb/deep/a")
    make(w, "/kb/b")
    make(w, "/kbc")

    assert deep.told() == [("create", "/kb/deep/a"), ("create", "/kb/b")]
    assert flat.told() == [("create", "/kb/b")]


def test_one_file_is_watched_wherever_it_goes(w: World) -> None:
    fd = make(w, "/tmp/a")
    watch = Watching(w, "/tmp/a")
    w("append", fd=fd, tokens=[2])
    w("rename", old="/tmp/a", new="/b")
    w("append", fd=fd, tokens=[2])
    w("unlink", path="/b")
    make(w, "/tmp/a")

    assert watch.told() == [("modify", "/tmp/a"), ("move", "/tmp/a", "/b"), ("modify", "/b"), ("delete", "/b")]


def test_a_file_with_several_names_is_told_of_once_by_one_that_may_be_seen(w: World, other: int) -> None:
    w("mkdir", path="/kb/private", mode=0o700)
    fd = make(w, "/kb/private/a", mode=0o644)
    w("link", fd=fd, path="/kb/b")
    w("link", fd=fd, path="/kb/c")
    watch, all_names = Watching(w, "/kb/b", by=other), Watching(w, "/kb", by=other)
    w("append", fd=fd, tokens=[2])
    w("setxattr", fd=fd, name="topic", value="x")

    assert watch.told() == [("modify", "/kb/b"), ("attrib", "/kb/b")]
    assert all_names.told() == [("modify", "/kb/b"), ("attrib", "/kb/b"), ("attrib", "/kb/c")]


def test_each_name_that_a_watched_file_gains_or_loses_is_told_as_that_name(w: World) -> None:
    fd = make(w, "/tmp/a")
    w("link", fd=fd, path="/tmp/b")
    watch = Watching(w, "/tmp/b")
    w("link", fd=fd, path="/tmp/c")
    w("unlink", path="/tmp/a")
    w("rename", old="/tmp/c", new="/tmp/d")
    w("unlink", path="/tmp/d")
    w("append", fd=fd, tokens=[1])

    assert watch.told() == [
        ("create", "/tmp/c"), ("delete", "/tmp/a"), ("move", "/tmp/c", "/tmp/d"), ("delete", "/tmp/d"), ("modify", "/tmp/b"),
    ]  # fmt: skip


def test_a_directory_that_moves_is_watched_where_it_is(w: World) -> None:
    w("mkdir", path="/kb/in", parents=True)
    watch = Watching(w, "/kb/in")
    w("rename", old="/kb", new="/lib")
    make(w, "/lib/in/a")

    assert watch.told() == [("create", "/lib/in/a")]


def test_a_watch_of_a_directory_that_is_gone_hears_nothing_of_another_one_of_its_name(w: World) -> None:
    for path in ("/kb", "/lib"):
        w("mkdir", path=path)
    watch = Watching(w, "/kb")
    w("rename", old="/lib", new="/kb")
    make(w, "/kb/a")

    assert watch.told() == [("delete", "/kb")]


def test_changes_of_tokens_of_one_turn_are_told_once(w: World) -> None:
    fd = make(w, "/a")
    watch = Watching(w)
    w.start("generate", fd=fd)
    job = w.job()
    w.files[job.ino] += [7, 8]
    w.complete(GenerateTokens(job.job, [7]), GenerateTokens(job.job, [8]))
    w.deliver([9])
    w.step()

    assert watch.told() == [("modify", "/a")] * 2


def test_a_reader_that_does_not_read_is_told_once_and_loses_the_oldest() -> None:
    w = World(watch_events=4)
    unread = [1 << 30]
    w.kernel.unread_bytes = lambda _: unread[0]
    fd = make(w, "/a")
    watch = Watching(w)
    for _ in range(10):
        w("append", fd=fd, tokens=[1])
    for name in "bcde":
        make(w, f"/{name}")
    w.pass_time(1)
    assert watch.parts == []

    unread[0] = 0
    w.pass_time(1)

    (part,) = watch.parts
    assert part.missing == 1
    assert [event.path for event in part.events] == ["/b", "/c", "/d", "/e"]
    w("append", fd=fd, tokens=[1])
    assert watch.told()[-1] == ("modify", "/a")
    w.disconnect()
    w.assert_empty()


def test_locks_are_told_of(w: World) -> None:
    fd = make(w, "/a")
    watch = Watching(w)
    w("flock", fd=fd, kind="shared", lease_s=1.0)
    w("flock", fd=fd)
    w("flock", fd=fd, kind="unlock")
    w("flock", fd=fd, lease_s=1.0)
    w.pass_time(1)

    assert [(event.kind, event.detail) for event in watch.events()] == [
        ("lock", "shared"), ("lock", "exclusive"), ("lock", "unlock"), ("lock", "exclusive"), ("lock", "expired"),
    ]  # fmt: skip


def test_what_one_may_not_see_is_not_told(w: World, other: int) -> None:
    watch = Watching(w, "/", by=other)
    w("mkdir", path="/kb/private", mode=0o700)
    w("mkdir", path="/kb/passable", mode=0o711)
    fd = make(w, "/kb/mine", mode=0o600)
    w("append", fd=fd, tokens=[1])
    make(w, "/kb/private/a", mode=0o644)
    make(w, "/kb/passable/b", mode=0o644)
    make(w, "/kb/open", mode=0o644)

    assert watch.told() == [("create", "/kb/passable"), ("create", "/kb/open")]


def test_rights_are_those_of_the_moment(w: World, other: int) -> None:
    watch = Watching(w, "/", by=other)
    fd = make(w, "/kb/a", mode=0o644)
    w("chmod", path="/kb/a", mode=0o600)
    w("append", fd=fd, tokens=[1])
    w("chmod", path="/kb/a", mode=0o644)
    w("append", fd=fd, tokens=[1])

    assert watch.told() == [("create", "/kb/a"), ("attrib", "/kb/a"), ("modify", "/kb/a")]


def test_of_a_move_one_is_told_the_end_that_one_may_see(w: World, other: int) -> None:
    w("mkdir", path="/kb/private", mode=0o700)
    make(w, "/kb/a", mode=0o644)
    make(w, "/kb/private/b", mode=0o644)
    watch = Watching(w, "/", by=other)
    w("rename", old="/kb/a", new="/kb/private/a")
    w("rename", old="/kb/private/b", new="/kb/b")
    w("rename", old="/kb/private/a", new="/kb/private/c")

    assert watch.told() == [("delete", "/kb/a"), ("create", "/kb/b")]


def test_ones_own_file_is_told_of_where_names_are_hidden(w: World, other: int) -> None:
    w("mkdir", path="/kb/drop", mode=0o733)
    watch = Watching(w, "/", by=other)
    make(w, "/kb/drop/theirs", by=other)
    make(w, "/kb/drop/mine", mode=0o644)

    assert watch.told() == [("create", "/kb/drop/theirs")]


def test_an_admin_sees_all(w: World, other: int) -> None:
    watch = Watching(w, "/", by=w.kernel.connect(ADMIN, "client", 0))
    w("mkdir", path="/kb/private", mode=0o700)
    make(w, "/kb/private/a")

    assert watch.told() == [("create", "/kb/private"), ("create", "/kb/private/a")]


def test_watching_needs_the_right_to_see(w: World, other: int) -> None:
    w("mkdir", path="/kb/private", mode=0o700)
    for path, error in (("/kb/private", errors.AccessDenied), ("/kb/private/x", errors.AccessDenied), ("/none", errors.NoSuchFile)):
        with pytest.raises(error):
            w("watch", by=other, path=path)


def test_too_many_watchers_are_refused() -> None:
    w = World(watchers=1)
    watch = Watching(w)

    with pytest.raises(errors.WouldBlock):
        w("watch", path="/tmp")
    w("cancel", target=watch.call)

    assert w.is_open(w.start("watch", path="/tmp"))


def test_a_watcher_waits_for_what_happens(w: World) -> None:
    Watching(w, "/tmp")

    (line,) = [line for line in w("why", pid=w.pid).threads if line.op == "watch"]

    assert (line.cause, line.detail) == ("child", "nothing has happened to /tmp")


def test_a_principals_home_that_comes_to_be_is_nobody_elses_news(w: World, other: int) -> None:
    watch = Watching(w, "/", by=other)

    make(w, "/home/me/a", mode=0o644)

    assert watch.told() == []


def test_a_member_of_a_group_is_told_what_the_group_may_see(w: World) -> None:
    pid: Any = w.kernel.connect(Credentials("friend", groups=("staff",), scopes=("run",)), "client", 0)
    root = w.kernel.connect(ADMIN, "client", 0)
    make(w, "/a", mode=0o640)
    watch = Watching(w, by=pid)
    w("chown", by=root, path="/a", group="staff")
    w("setxattr", path="/a", name="topic", value="x")

    assert watch.told() == [("attrib", "/a"), ("attrib", "/a")]
