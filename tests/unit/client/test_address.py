from pathlib import Path

import pytest

from vllm_symphony.client.address import check_socket_path, default_run_dir, default_socket
from vllm_symphony.client.run import Program
from vllm_symphony.errors import BadProgram, NameTooLong


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("SYMPHONY_SOCKET", "SYMPHONY_RUN_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


def test_the_run_directory_is_found_in_order(monkeypatch):
    assert default_run_dir() == Path("/home/me/.symphony/run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_run_dir() == Path("/run/user/1/symphony")
    monkeypatch.setenv("SYMPHONY_RUN_DIR", "/here")
    assert default_run_dir() == Path("/here")
    assert default_socket() == Path("/here/symphony.sock")


def test_a_socket_of_its_own_wins(monkeypatch):
    monkeypatch.setenv("SYMPHONY_RUN_DIR", "/here")
    monkeypatch.setenv("SYMPHONY_SOCKET", "unix:/there/s.sock")
    assert default_socket() == Path("/there/s.sock")


def test_a_path_that_no_socket_can_have_is_refused_with_the_limit():
    assert check_socket_path(Path("/" + "x" * 106)) == Path("/" + "x" * 106)
    with pytest.raises(NameTooLong, match="107"):
        check_socket_path(Path("/" + "x" * 107))


def test_a_program_is_a_path_or_its_text(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")

    assert Program.of(tmp_path / "a.py") == Program("x = 1\n", name="a")
    assert Program.of("x = 1\n") == Program("x = 1\n")
    with pytest.raises(BadProgram, match="No such file"):
        Program.of("missing.py")
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(BadProgram, match="not UTF-8 at byte 0"):
        Program.of(tmp_path / "a.py")
