"""`find`: rights first, then all that is asked for; text is the store's work."""

from typing import Any

import pytest

from tests.unit.kernel.world import OTHER, SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.types import OpenFlags
from vllm_symphony.errors import DataCorrupt, InvalidArgument
from vllm_symphony.kernel import effect as e
from vllm_symphony.kernel.syscall import find as find_module

CREAT, RDWR = int(OpenFlags.CREAT), int(OpenFlags.RDWR)


def make(w: World, path: str, num_tokens: int = 1, *, mode: int = 0o644, by: int | None = None) -> int:
    fd: int = w("open", by=by, path=path, tokens=[1] * num_tokens, flags=CREAT | RDWR, mode=mode).fd
    return fd


def ino(w: World, path: str) -> int:
    number: int = w("stat", path=path).file.ino
    return number


@pytest.fixture
def tree(w: World) -> World:
    """/kb with files of several kinds; `other` may not read one, nor look into one directory."""
    w("umask", mask=0)
    for path, mode in (("/kb", 0o777), ("/kb/deep", 0o755), ("/kb/private", 0o700)):
        w("mkdir", path=path, mode=mode)
    make(w, "/kb/a.kv", 5)
    make(w, "/kb/b.txt", 10)
    make(w, "/kb/deep/c.kv", 20)
    make(w, "/kb/private/d.kv", 30)
    make(w, "/kb/secret.kv", 40, mode=0o600)
    w("setxattr", path="/kb/a.kv", name="topic", value="weather")
    w("setxattr", path="/kb/a.kv", name="lang", value="en")
    w("setxattr", path="/kb/b.txt", name="topic", value="war")
    return w


def paths(w: World, *, by: int | None = None, **args: Any) -> list[str]:
    result = w("find", by=by, **{"path": "/kb", **args})
    assert result.total == len(result.files)
    return [file.path for file in result.files]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"kind": "dir"}, ["/kb/deep", "/kb/private"]),
        ({"name": "*.kv", "max_length": 20}, ["/kb/a.kv", "/kb/deep/c.kv"]),
        ({"name": "?.txt"}, ["/kb/b.txt"]),
        ({"name": "[bc].*"}, ["/kb/b.txt", "/kb/deep/c.kv"]),
        ({"min_length": 10, "max_length": 20}, ["/kb/b.txt", "/kb/deep/c.kv"]),
        ({"xattr": {"topic": "w*"}}, ["/kb/a.kv", "/kb/b.txt"]),
        ({"xattr": {"topic": "w*", "lang": "e?"}}, ["/kb/a.kv"]),
        ({"fidelity": "exact", "name": "a*"}, ["/kb/a.kv"]),
        ({"fidelity": "pruned"}, []),
        ({"owner": "other"}, []),
        ({"path": "/kb/deep"}, ["/kb/deep/c.kv"]),
        ({"path": "/kb/a.kv"}, ["/kb/a.kv"]),
        ({"path": "/kb/a.kv", "name": "b*"}, []),
    ],
)
def test_all_that_is_given_must_match(tree: World, args: dict, found: list[str]) -> None:
    assert paths(tree, **args) == found


def test_ages_are_those_of_the_tokens(tree: World) -> None:
    tree.pass_time(100)
    make(tree, "/kb/new")
    tree("setxattr", path="/kb/b.txt", name="topic", value="new")
    tree.pass_time(1)

    assert paths(tree, kind="file", max_age_s=1.0) == ["/kb/new"]
    assert "/kb/b.txt" in paths(tree, kind="file", min_age_s=101.0)


def test_of_many_the_first_are_given_and_all_are_counted(tree: World) -> None:
    result = tree("find", path="/kb", kind="file", limit=2)

    assert ([file.path for file in result.files], result.total) == (["/kb/a.kv", "/kb/b.txt"], 5)


def test_rights_come_before_counting(tree: World) -> None:
    other = tree.kernel.connect(OTHER, "client", 0)

    assert paths(tree, by=other, kind="file") == ["/kb/a.kv", "/kb/b.txt", "/kb/deep/c.kv"]
    for path, error in (("/kb/private", errors.AccessDenied), ("/kb/secret.kv", errors.AccessDenied), ("/x", errors.NoSuchFile)):
        with pytest.raises(error):
            tree("find", by=other, path=path)


@pytest.mark.parametrize(
    "args",
    [
        {"limit": 0}, {"limit": 65_537}, {"kind": "pipe"}, {"fidelity": "good"}, {"min_length": -1}, {"max_age_s": float("nan")},
        {"name": "*" * 1025}, {"xattr": {"a": "*" * 1025}}, {"text": "x" * 4097}, {"timeout_s": -1.0},
    ],
)  # fmt: skip
def test_a_bad_argument_is_refused(w: World, args: dict) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("find", **args)


def search(w: World, **args: Any) -> tuple[int, e.StoreFind]:
    call = w.start("find", **{"path": "/kb", "text": "fog", **args})
    return call, w.sent(e.StoreFind)[-1]


def test_the_index_ranks_what_the_caller_may_read_and_nothing_else(tree: World) -> None:
    other = tree.kernel.connect(OTHER, "client", 0)
    call, job = search(tree, by=other, name="*.kv", limit=7)
    readable = [ino(tree, path) for path in ("/kb/a.kv", "/kb/deep/c.kv")]
    assert (list(job.candidates), job.query, job.limit) == (readable, "fog", 7)

    tree.complete(e.FindDone(job.job, ((readable[1], "in [fog]"), (readable[0], "[fog]")), 2))

    result = tree.result(call, other)
    assert [file.path for file in result.files] == ["/kb/deep/c.kv", "/kb/a.kv"]
    assert (result.snippets, result.total) == (("in [fog]", "[fog]"), 2)


def test_the_index_is_given_what_it_does_not_know(tree: World) -> None:
    tree.pass_time(3)
    fd = make(tree, "/kb/new", 2)
    _, first = search(tree, name="[an]*")
    assert {(i, ns, len(tokens)) for i, ns, tokens in first.changed} == {
        (ino(tree, "/kb/a.kv"), 1000 * SECOND, 5), (ino(tree, "/kb/new"), 1003 * SECOND, 2),
    }  # fmt: skip
    tree.complete(e.FindDone(first.job, (), 0))
    tree.pass_time(1)
    tree("append", fd=fd, tokens=[3])

    _, second = search(tree, name="[an]*")

    assert second.changed == ((ino(tree, "/kb/new"), 1004 * SECOND, [1, 1, 3]),)
    tree.complete(e.FindDone(second.job, (), 0))


def test_much_that_is_new_goes_in_batches_before_the_question(tree: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_module, "BATCH_TOKENS", 25)
    call, job = search(tree)
    given: list[int] = []

    while tree.is_open(call):
        job = tree.sent(e.StoreFind)[-1]
        given += [i for i, _, _ in job.changed]
        assert bool(job.candidates) == (len(given) == 5)
        tree.complete(e.FindDone(job.job, (), 0))

    assert len(given) == len(set(given)) == 5
    assert len(tree.sent(e.StoreFind)) > 2


def test_a_file_that_is_gone_when_the_answer_comes_is_left_out(tree: World) -> None:
    call, job = search(tree, name="b*")
    (number,) = job.candidates
    tree("unlink", path="/kb/b.txt")
    for fd in list(tree.kernel.processes[tree.pid].fds.files):
        tree("close", fd=fd)

    tree.complete(e.FindDone(job.job, ((number, "[fog]"),), 1))

    assert tree.result(call).files == ()


def test_the_index_forgets_a_file_that_is_gone(tree: World) -> None:
    fd = make(tree, "/tmp/gone")
    _, job = search(tree, path="/tmp")
    number = ino(tree, "/tmp/gone")
    tree.complete(e.FindDone(job.job, ((number, "[fog]"),), 1))

    tree("unlink", path="/tmp/gone")
    tree("close", fd=fd)

    assert tree.sent(e.StoreWrite)[-1].removed == (number,)


def test_the_index_forgets_a_file_that_went_while_it_was_asked(tree: World) -> None:
    fd = make(tree, "/tmp/gone")
    number = ino(tree, "/tmp/gone")
    call, job = search(tree, path="/tmp")
    tree("cancel", target=call)

    tree("unlink", path="/tmp/gone")
    tree("close", fd=fd)

    assert tree.sent(e.StoreWrite)[-1].removed == (number,)
    tree.complete(e.FindDone(job.job, (), 0))


def test_what_the_index_was_told_to_forget_while_it_was_asked_is_given_to_it_again(tree: World) -> None:
    _, job = search(tree, name="a.kv")
    (number,) = job.candidates
    tree.kernel.files.inodes[number].indexed_ns = 0  # as when its directory is no longer kept
    tree.complete(e.FindDone(job.job, (), 0))

    _, again = search(tree, name="a.kv")

    assert [i for i, _, _ in again.changed] == [number]
    tree.complete(e.FindDone(again.job, (), 0))


def test_without_a_candidate_nobody_is_asked(tree: World) -> None:
    assert tree("find", path="/kb", text="fog", name="none").total == 0
    assert tree.sent(e.StoreFind) == []


def test_what_the_store_refuses_is_the_callers_answer(tree: World) -> None:
    for answer, error in (
        (e.JobFailed, errors.InvalidArgument),
        (e.StoreDone, DataCorrupt),
    ):
        call, job = search(tree)
        tree.complete(answer(job.job, InvalidArgument("no query")) if answer is e.JobFailed else answer(job.job))
        with pytest.raises(error):
            tree.result(call)


def test_a_search_ends_with_its_time_or_the_device(tree: World) -> None:
    late, job = search(tree, timeout_s=2.0)
    tree.pass_time(2)
    with pytest.raises(errors.TimedOut):
        tree.result(late)
    tree.complete(e.FindDone(job.job, (), 0))  # nobody waits for it

    call, _ = search(tree)
    (line,) = [line for line in tree("why", pid=tree.pid).threads if line.op == "find"]
    assert (line.cause, line.detail) == ("disk", "the search index, of 5 files")
    tree.kernel.device_lost("dead", tree.now_ns)
    tree.drain()
    for failing in (call, search(tree)[0]):
        with pytest.raises(errors.DeviceLost):
            tree.result(failing)
