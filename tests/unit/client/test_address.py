from pathlib import Path

import pytest

from vllm_symphony.abi.address import HostPort
from vllm_symphony.client.address import Target, check_socket_path, default_run_dir, default_socket, target_of
from vllm_symphony.client.run import Program
from vllm_symphony.errors import BadProgram, InvalidArgument, NameTooLong


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("SYMPHONY_SERVER", "SYMPHONY_SOCKET", "SYMPHONY_RUN_DIR", "XDG_RUNTIME_DIR"):
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


@pytest.mark.parametrize(
    ("target", "means"),
    [
        ("/a/s.sock", Target(Path("/a/s.sock"))),
        ("unix:/a/s.sock", Target(Path("/a/s.sock"))),
        ("unix:///a/s.sock", Target(Path("/a/s.sock"))),
        (Path("/a:1"), Target(Path("/a:1"))),
        ("/home/sym_links/me@host:1", Target(Path("/home/sym_links/me@host:1"))),
        ("localhost:5", Target(HostPort("localhost", 5))),
        ("[::1]:5", Target(HostPort("::1", 5))),
        ("grpcs://gpu1:5", Target(HostPort("gpu1", 5), tls=True)),
        ("grpcs://gpu1:5/", Target(HostPort("gpu1", 5), tls=True)),
    ],
)
def test_a_target_is_a_socket_or_an_address(target, means):
    assert target_of(target) == means


def test_without_a_target_the_settings_decide(monkeypatch):
    assert target_of() == Target(Path("/home/me/.symphony/run/symphony.sock"))
    monkeypatch.setenv("SYMPHONY_SOCKET", "/there/s.sock")
    assert target_of() == Target(Path("/there/s.sock"))
    monkeypatch.setenv("SYMPHONY_SERVER", "grpcs://gpu1:5")
    assert target_of() == Target(HostPort("gpu1", 5), tls=True)


@pytest.mark.parametrize(
    "target", ["http://h:1", "https://user:hunter2@h:1", "grpcs://h", "grpcs://user:hunter2@h:1", "h:x", "::1:5"]
)
def test_what_is_no_target_is_refused_without_a_secret_in_the_message(target):
    with pytest.raises(InvalidArgument) as refused:
        target_of(target)

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("form", ["{}", "unix:{}", "grpcs://{}@h:1", "grpcs://h:1/{}", "http://{}", "{}@h:1", "/{}/s.sock"])
def test_a_token_in_a_target_is_refused_and_not_repeated(form):
    with pytest.raises(InvalidArgument, match="holds no user and no token") as refused:
        target_of(form.format("sym_0123456789ab_" + "7" * 64))

    assert "0123456789ab" not in str(refused.value)


def test_a_program_is_a_path_or_its_text(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")

    assert Program.of(tmp_path / "a.py") == Program("x = 1\n", name="a")
    assert Program.of("x = 1\n") == Program("x = 1\n")
    with pytest.raises(BadProgram, match="No such file"):
        Program.of("missing.py")
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(BadProgram, match="not UTF-8 at byte 0"):
        Program.of(tmp_path / "a.py")
