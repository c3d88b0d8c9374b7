"""The state directory: one server at a time, nobody else's eyes, nothing left of a killed one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_symphony.errors import AccessDenied, FileExists, OutOfPages, ReadOnly
from vllm_symphony.store.segment import write_segment
from vllm_symphony.store.state import StateDirectory, unusable


@pytest.fixture
def state(tmp_path: Path):
    directory = StateDirectory(tmp_path / "fs")
    yield directory
    directory.close()


def test_a_second_server_is_refused_with_the_first_ones_pid(state: StateDirectory):
    with pytest.raises(FileExists, match=f"process {os.getpid()}") as refused:
        StateDirectory(state.path)

    assert refused.value.values["path"] == str(state.path)


def test_the_lock_of_a_process_that_is_gone_is_no_obstacle(tmp_path: Path):
    script = "import sys; from pathlib import Path; from vllm_symphony.store.state import StateDirectory; import os; " \
        "StateDirectory(Path(sys.argv[1])); os.kill(os.getpid(), 9)"  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "fs")], timeout=60)

    assert killed.returncode == -9 and (tmp_path / "fs" / "store.lock").read_text().strip().isdecimal()
    StateDirectory(tmp_path / "fs").close()


def test_all_of_it_is_the_owners_alone(state: StateDirectory):
    state.key()

    modes = {path.name: path.stat().st_mode & 0o777 for path in (state.path, *state.path.iterdir())}

    assert all(mode == (0o700 if (state.path / name).is_dir() else 0o600) for name, mode in modes.items() if name != "fs")
    assert modes["fs"] == 0o700


def test_a_directory_that_others_may_read_is_closed_to_them(tmp_path: Path):
    (tmp_path / "fs").mkdir(mode=0o755)

    StateDirectory(tmp_path / "fs").close()

    assert (tmp_path / "fs").stat().st_mode & 0o777 == 0o700


def test_the_key_is_made_once(state: StateDirectory):
    key = state.key()
    state.close()
    again = StateDirectory(state.path)

    assert again.key() == key and len(key) == 32
    again.close()


def test_what_a_killed_server_was_about_to_write_is_cleared_away(state: StateDirectory):
    write_segment(state.pages, "kept.seg", "f", [(b"page", 1)])
    for left in (state.pages / "half.seg.tmp", state.pages / "spill-x.seg", state.spool / "pack.kv"):
        left.write_bytes(b"half")
    state.close()

    StateDirectory(state.path).close()

    assert [path.name for path in state.pages.iterdir()] == ["kept.seg"] and not list(state.spool.iterdir())


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(AccessDenied, match="cannot use"):
        StateDirectory(tmp_path / "file" / "fs")


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EROFS, ReadOnly), (errno.ENOSPC, OutOfPages), (errno.EDQUOT, OutOfPages), (errno.EACCES, AccessDenied)],
)
def test_each_failure_of_the_system_has_its_word(number: int, kind: type[Exception]):
    error = unusable(Path("/s"), OSError(number, os.strerror(number)))

    assert type(error) is kind and os.strerror(number) in error.message


def test_a_read_only_file_system_is_refused_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: object, *_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("vllm_symphony.store.state.os.open", refuse)

    with pytest.raises(ReadOnly, match="fs: Read-only file system"):
        StateDirectory(tmp_path / "fs")
