import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import AccessDenied, DataCorrupt, FileExists, NoSuchFile


def token(name: str = "ci"):
    return make(name, "alice", now_s=1.0, groups=("g",), scopes=("run",), expires_s=9.5)[0]


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "state")


def names(file: TokenFile) -> list[str]:
    return [t.name for t in file.by_id().values()]


def test_no_file_means_no_tokens(file):
    assert file.by_id() == {}


def test_what_was_added_reads_back(file):
    added = token()
    file.add(added)

    assert TokenFile(file.path.parent).by_id() == {added.id: added}


def test_the_file_and_its_directory_are_private(file):
    before = os.umask(0)
    try:
        file.add(token())
    finally:
        os.umask(before)

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in file.path.parent.iterdir()}
    assert modes == {"tokens.json": 0o600, "tokens.lock": 0o600}
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_a_taken_name_is_refused(file):
    file.add(token())

    with pytest.raises(FileExists, match="a token ci is there already"):
        file.add(token())


def test_a_revoked_token_is_gone_and_its_name_free(file):
    old, new = token(), token()
    file.add(old)

    assert file.revoke("ci") == old
    file.add(new)

    assert list(file.by_id()) == [new.id]
    with pytest.raises(NoSuchFile, match=r"no such token: other \(1 there\)"):
        file.revoke("other")


def test_another_reader_sees_changes_and_reads_again_only_then(file, monkeypatch):
    reader, num_reads = TokenFile(file.path.parent), []
    monkeypatch.setattr(reader, "_read", lambda read=reader._read: num_reads.append(1) or read())

    file.add(token("a"))
    assert names(reader) == names(reader) == ["a"]
    assert len(num_reads) == 1
    file.add(token("b"))
    assert names(reader) == ["a", "b"]
    file.revoke("a")
    assert names(reader) == names(reader) == ["b"]
    assert len(num_reads) == 3
    file.path.unlink()
    assert names(reader) == []


def test_concurrent_additions_lose_nothing(file):
    with ThreadPoolExecutor(8) as pool:  # each opens the lock for itself, as processes do
        list(pool.map(lambda i: TokenFile(file.path.parent).add(token(f"t{i}")), range(40)))

    assert sorted(names(file)) == sorted(f"t{i}" for i in range(40))
    assert sorted(p.name for p in file.path.parent.iterdir()) == ["tokens.json", "tokens.lock"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(file, monkeypatch):
    file.add(token("a"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AccessDenied, match="No space left on device"):
        file.add(token("b"))

    assert names(file) == ["a"]
    assert sorted(p.name for p in file.path.parent.iterdir()) == ["tokens.json", "tokens.lock"]


def changed(**fields: object) -> str:
    return json.dumps({"version": 1, "tokens": [{**asdict(token()), **fields}]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "\x00",
        '{"version": 2, "tokens": []}',
        '{"version": 1}',
        '{"version": 1, "tokens": 5}',
        '{"version": 1, "tokens": [5]}',
        '{"version": 1, "tokens": [{}]}',
        changed(extra=1),
        changed(scopes=["root"]),
        changed(scopes="run"),
        changed(scopes=[["run"]]),
        changed(groups="abc"),
        changed(groups=[7]),
        changed(principal="../etc"),
        changed(principal=None),
        changed(id="short"),
        changed(sha256="0" * 63 + "G"),
        changed(expires_s="soon"),
        changed(expires_s=float("nan")),
        changed(created_s=None),
        json.dumps({"version": 1, "tokens": [asdict(t := token()), asdict(t)]}),
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_damaged_file_is_a_typed_error_and_opens_no_door(file, text, caplog):
    file.add(token())
    file.path.write_text(text)

    for _ in range(2):
        with pytest.raises(DataCorrupt, match=r"the token file .*tokens\.json is damaged"):
            file.by_id()
    with pytest.raises(DataCorrupt):
        file.add(token("b"))

    assert file.path.read_text() == text
    assert [r.levelno for r in caplog.records] == [logging.ERROR]  # once, not at each call


def test_the_error_of_a_damaged_file_repeats_no_hash(file):
    added = token()
    file.add(added)
    file.path.write_text(file.path.read_text().replace('"version": 1', '"version": 3'))

    with pytest.raises(DataCorrupt) as refused:
        file.by_id()

    assert added.sha256 not in str(refused.value)


def test_a_mended_file_works_again(file):
    file.add(token())
    good = file.path.read_text()
    file.path.write_text("{")
    with pytest.raises(DataCorrupt):
        file.by_id()

    file.path.write_text(good)

    assert names(file) == ["ci"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o660])
def test_a_file_that_others_may_use_is_refused_until_its_mode_is_mended(file, mode):
    file.add(token())
    assert names(file) == ["ci"]

    file.path.chmod(mode)
    with pytest.raises(AccessDenied, match=rf"mode 0{mode:o}"):
        file.by_id()

    file.path.chmod(0o600)
    assert names(file) == ["ci"]


def test_a_file_of_another_user_is_refused(file, monkeypatch):
    file.add(token())
    monkeypatch.setattr(os, "geteuid", lambda: file.path.stat().st_uid + 1)

    with pytest.raises(AccessDenied, match="belongs to user"):
        file.by_id()


def test_a_state_directory_of_another_user_is_refused(file, monkeypatch):
    file.path.parent.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: file.path.parent.stat().st_uid + 1)

    with pytest.raises(AccessDenied, match="belongs to user"):
        file.add(token())


def test_a_state_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "state").write_text("")

    with pytest.raises(AccessDenied, match="cannot use the state directory"):
        TokenFile(tmp_path / "state").add(token())
