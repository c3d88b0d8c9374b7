import os
from pathlib import Path

import pytest

from vllm_symphony.client.address import target_of
from vllm_symphony.client.token import token_for, token_in
from vllm_symphony.errors import AccessDenied, InvalidArgument

TOKEN = "sym_0123456789ab_" + "7" * 64
OTHER = "sym_0123456789ab_" + "8" * 64
UNIX, LOOPBACK, OUTSIDE = target_of("/s.sock"), target_of("127.0.0.1:5"), target_of("grpcs://gpu1:5")


@pytest.fixture(autouse=True)
def run_dir(monkeypatch, tmp_path) -> Path:
    for name in ("SYMPHONY_TOKEN", "SYMPHONY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(tmp_path))
    return tmp_path


def lay(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_any_there_is_none():
    assert [token_for(t) for t in (UNIX, LOOPBACK, OUTSIDE)] == [None, None, None]


def test_the_given_one_wins_over_the_environment_and_that_over_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("SYMPHONY_TOKEN_FILE", str(lay(tmp_path / "t", f"{TOKEN}\nmore\n")))
    assert token_for(OUTSIDE) == TOKEN
    monkeypatch.setenv("SYMPHONY_TOKEN", OTHER)
    assert token_for(UNIX) == OTHER
    assert token_for(LOOPBACK, TOKEN) == TOKEN


def test_the_servers_own_token_is_for_its_loopback_ports_only(run_dir):
    lay(run_dir / "token", f"{TOKEN}\nunix:/s:7\n127.0.0.1:5\n[::1]:6\n")

    assert token_for(LOOPBACK) == TOKEN
    assert token_for(target_of("localhost:6")) == TOKEN
    assert token_for(target_of("127.0.0.1:7")) is None
    assert token_for(UNIX) is None
    assert token_for(OUTSIDE) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620])
def test_an_own_token_that_others_may_use_is_refused(run_dir, mode):
    lay(run_dir / "token", f"{TOKEN}\n127.0.0.1:5\n", mode)

    with pytest.raises(AccessDenied, match=rf"mode 0{mode:o}") as refused:
        token_for(LOOPBACK)

    assert "777" not in str(refused.value)


def test_an_own_token_of_another_user_is_refused(run_dir, monkeypatch):
    lay(run_dir / "token", f"{TOKEN}\n127.0.0.1:5\n")
    monkeypatch.setattr(os, "geteuid", lambda: run_dir.stat().st_uid + 1)

    with pytest.raises(AccessDenied, match="must be yours"):
        token_for(LOOPBACK)


def test_an_own_token_that_is_a_link_is_refused(run_dir):
    lay(run_dir / "elsewhere", f"{TOKEN}\n127.0.0.1:5\n")
    (run_dir / "token").symlink_to(run_dir / "elsewhere")

    with pytest.raises(AccessDenied, match="cannot read"):
        token_for(LOOPBACK)


@pytest.mark.parametrize("text", ["", "\n", "two words", "tab\tbed", "é", "\x00"])
def test_a_file_without_a_token_is_refused(tmp_path, text):
    with pytest.raises(InvalidArgument, match="is no token"):
        token_in(lay(tmp_path / "t", text))


def test_a_missing_file_is_a_typed_error(monkeypatch, tmp_path):
    monkeypatch.setenv("SYMPHONY_TOKEN_FILE", str(tmp_path / "none"))

    with pytest.raises(AccessDenied, match=r"cannot read the token file .*none"):
        token_for(UNIX)


def test_what_no_header_may_hold_is_refused_and_not_repeated():
    with pytest.raises(InvalidArgument) as refused:
        token_for(UNIX, f"{TOKEN}\nx-other: 1")

    assert "777" not in str(refused.value)
