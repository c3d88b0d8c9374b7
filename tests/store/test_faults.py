"""A real kernel host on the simulator whose disk misbehaves: it says so, and loses nothing in silence."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.host import ROOT, Died, Host
from vllm_symphony.abi.calls import Chattr, Forward, Fsck, Mkdir, NoArgs, Open, Read, Stat, Sync
from vllm_symphony.abi.types import OpenFlags, pack_tokens, unpack_tokens
from vllm_symphony.errors import SymphonyError

BOOK = list(range(40, 100))
RDWR, CREAT = OpenFlags.RDWR, OpenFlags.CREAT


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """With /kb, whose files are kept with their pages, and /kb/book, computed."""
    host = Host(tmp_path).connect()
    host("mkdir", Mkdir("/kb"))
    host("chattr", Chattr(path="/kb", durable="pages"))
    fd = host("open", Open("/kb/book", pack_tokens(BOOK), RDWR | CREAT)).fd
    host("forward", Forward(fd, b""))
    yield host
    host.crash()


def segments(host: Host) -> list[Path]:
    return [path for path in (host.state / "pages").iterdir() if not path.name.startswith("spill-")]


def limit_files(host: Host, num_bytes: int) -> None:
    """From now on no file of the host's grows past that: the system refuses as it does on a full disk."""
    resource.prlimit(host.process.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def until_on_disk(host: Host, path: str, num_pages: int) -> None:
    """A fresh host hears calls before its device has looked through all that was saved."""
    deadline = time.monotonic() + 60
    while host("stat", Stat(path=path)).file.disk_pages != num_pages:
        assert time.monotonic() < deadline, host("stat", Stat(path=path))
        time.sleep(0.01)


def test_a_disk_that_takes_no_more_fails_the_sync_and_later_all_is_written(host: Host):
    limit_files(host, 100)
    with pytest.raises(SymphonyError, match=r"cannot (use|write)|disk is full"):
        host("sync", Sync(path="/kb/book"))
    assert unpack_tokens(host("read", Read(path="/kb/book")).tokens) == BOOK

    limit_files(host, resource.RLIM_INFINITY)
    assert host("sync", Sync(path="/kb/book")).num_files == 1
    host.crash()

    again = Host(host.folder).connect()
    until_on_disk(again, "/kb/book", 4)
    assert again.stop() == 0


def test_records_that_cannot_be_written_are_in_the_log_and_in_info(host: Host):
    host("sync", Sync())
    limit_files(host, (host.state / "store.db-wal").stat().st_size)  # enough for the host's log
    host("open", Open("/other", pack_tokens(BOOK * 40), RDWR | CREAT))
    with pytest.raises(SymphonyError):
        host("sync", Sync(path="/other"))

    assert json.loads(host("info", NoArgs()).json)["store"]["waiting"] >= 1
    assert "the store cannot be written" in host.said()
    limit_files(host, resource.RLIM_INFINITY)
    assert host.stop() == 0
    again = Host(host.folder).connect()
    assert unpack_tokens(again("read", Read(path="/other")).tokens) == BOOK * 40
    again.stop()


def test_flipped_bits_of_an_exact_file_are_found_and_it_is_computed_again(host: Host):
    host("sync", Sync())
    fd = host("open", Open("/kb/book", flags=RDWR)).fd
    row = host("forward", Forward(fd, b"")).distributions[0]
    host.crash()
    (path,) = segments(host)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)

    again = Host(host.folder).connect()
    (finding,) = again("fsck", Fsck()).findings

    assert (finding.kind, finding.path) == ("corrupt", "/kb/book") and "checksum" in finding.detail
    assert [p.name for p in (again.state / "quarantine").iterdir()] == [path.name]
    fd = again("open", Open("/kb/book", flags=RDWR)).fd
    found = again("forward", Forward(fd, b"")).distributions[0]
    assert (found.ids, found.logprobs) == (row.ids, row.logprobs)
    assert again.stop() == 0


def test_an_orderly_end_saves_what_is_kept_with_its_pages(host: Host):
    assert host.stop() == 0

    again = Host(host.folder).connect()
    until_on_disk(again, "/kb/book", 4)
    assert again.stop() == 0


def test_a_second_server_on_the_same_directory_is_refused_and_the_first_goes_on(host: Host):
    folder = host.folder / "second"
    folder.mkdir()
    (folder / "state").symlink_to(host.state)
    second = Host(folder)

    assert second.process.wait(60) == 1
    assert host("stat", Stat(path="/kb/book")).file.length == len(BOOK)


def status_of(*words: str) -> dict[str, object]:
    """What a host that cannot start says to its parent."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_symphony.engine.main", "--socket", "/nonexistent/x.sock", "--status-fd", str(write),
         "--device", "sim", *words, "--"],
        pass_fds=(write,), env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as lines:
        said = [json.loads(line) for line in lines]
    process.wait(60)
    return next(line for line in said if "error" in line)


def test_a_refused_server_says_whose_directory_it_is_and_what_to_do(host: Host):
    said = status_of("--state-dir", str(host.state))

    assert said["exit"] == 1
    assert f"process {host.process.pid}" in str(said["error"]) and "--no-state" in str(said["error"])


def test_a_damaged_database_is_refused_with_its_name(host: Host):
    host("sync", Sync())
    assert host.stop() == 0
    database = host.state / "store.db"
    database.write_bytes(database.read_bytes()[:100] + b"\0" * 4000)

    said = status_of("--state-dir", str(host.state))

    assert "store.db is damaged" in str(said["error"]) and "backup" in str(said["error"])


def test_a_newer_state_directory_is_refused(host: Host):
    import sqlite3
    from contextlib import closing

    assert host.stop() == 0
    with closing(sqlite3.connect(host.state / "store.db")) as db, db:
        db.execute("UPDATE schema SET version = 99")

    assert "schema version 99" in str(status_of("--state-dir", str(host.state))["error"])


def test_a_crash_in_the_middle_of_a_first_start_leaves_a_usable_directory(tmp_path: Path):
    for nth in (1, 2):
        host = Host(tmp_path, "--crash-at", f"store.written:{nth}")
        with contextlib.suppress(Died):
            host.connect()
            for _ in range(nth):
                host("sync", Sync())
        assert host.crash() == -9

    host = Host(tmp_path).connect()
    assert host("sync", Sync()).num_files == 0
    assert host.stop() == 0
