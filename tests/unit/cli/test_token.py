import json
import os
import re
import stat
import time
from datetime import datetime, timedelta

import pytest

from vllm_symphony.cli.main import main
from vllm_symphony.edge.token import proves, split
from vllm_symphony.edge.token_file import TokenFile


@pytest.fixture
def token(monkeypatch, tmp_path, capsys):
    """Runs `symphony token`; gives exit code, stdout, stderr."""
    monkeypatch.setenv("SYMPHONY_STATE_DIR", str(tmp_path / "state"))

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["token", *words])
        return code, *capsys.readouterr()

    return run


def test_add_prints_the_token_alone_and_keeps_only_its_hash(token, tmp_path):
    code, out, err = token("add", "ci", "--principal", "alice", "--group", "g", "--group", "h", "--scope", "run")

    assert (code, err) == (0, "")
    assert re.fullmatch(r"sym_[0-9a-f]{12}_[0-9a-f]{64}\n", out)
    token_id, secret = split(out.strip())
    kept = TokenFile(tmp_path / "state").by_id()[token_id]
    assert proves(secret, kept)
    assert (kept.principal, kept.groups, kept.scopes, kept.expires_s) == ("alice", ("g", "h"), ("run",), None)
    assert secret not in (tmp_path / "state" / "tokens.json").read_text()
    assert stat.S_IMODE(os.stat(tmp_path / "state" / "tokens.json").st_mode) == 0o600


def test_the_secret_is_shown_once(token):
    secret = split(token("add", "ci", "--principal", "alice")[1].strip())[1]

    shown = token("list"), token("list", "--json"), token("revoke", "ci", "--json")

    assert all(code == 0 for code, _, _ in shown)
    assert secret not in str(shown)


def test_json_has_the_fields_and_the_token(token):
    added = json.loads(token("add", "ci", "--principal", "alice", "--scope", "run", "--expires", "30d", "--json")[1])
    (listed,) = json.loads(token("list", "--json")[1])

    text = added.pop("token")
    assert added == listed
    assert listed["id"] == split(text)[0]
    assert (listed["name"], listed["principal"], listed["groups"], listed["scopes"], listed["expired"]) == (
        "ci",
        "alice",
        [],
        ["run"],
        False,
    )
    assert abs(listed["expires_s"] - listed["created_s"] - 30 * 86400) < 10


def test_a_list_shows_who_and_until_when(token):
    tomorrow = (datetime.now() + timedelta(days=1)).strftime("%Y-%m-%d")
    token("add", "ci", "--principal", "alice", "--scope", "run", "--expires", tomorrow)
    token("add", "for-ever", "--principal", "bob")

    _, out, _ = token("list")

    head, first, second = out.splitlines()
    assert head.split() == ["NAME", "ID", "PRINCIPAL", "GROUPS", "SCOPES", "RATE", "CREATED", "EXPIRES"]
    assert first.startswith("ci ") and "alice" in first and "run" in first and f"{tomorrow} 00:00" in first
    assert second.endswith("never")


def test_a_token_has_the_rate_that_it_was_given_and_what_is_no_rate_is_wrong_usage(token):
    token("add", "ci", "--principal", "alice", "--rate", "20/s:40")

    assert "20/s:40" in token("list")[1]
    code, _, err = token("add", "other", "--principal", "alice", "--rate", "fast")
    assert code == 2 and "no rate: 'fast'" in err


def test_revoke_makes_room_for_another_of_its_name(token):
    token("add", "ci", "--principal", "alice")
    code, _, err = token("add", "ci", "--principal", "bob")
    assert code == 1 and err.startswith("symphony: EEXIST: a token ci is there already")

    assert token("revoke", "ci") == (0, "", "")

    assert token("add", "ci", "--principal", "bob")[0] == 0
    code, _, err = token("revoke", "other")
    assert code == 1 and err == "symphony: ENOENT: no such token: other (1 there)\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["add"],
        ["add", "ci"],
        ["revoke"],
        ["forget", "ci"],
        ["add", "ci", "--principal", "a", "--expires", "soon"],
        ["add", "ci", "--principal", "a", "--token", "x"],
    ],
)
def test_wrong_words_are_wrong_usage(token, words):
    assert token(*words)[0] == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a b", "--principal", "p"], "EINVAL: no name for a token: 'a b'"),
        (["ci", "--principal", "../p"], "EINVAL: no name for a principal: '../p'"),
        (["ci", "--principal", "p", "--scope", "root"], "EINVAL: no such scope: root"),
        (["ci", "--principal", "p", "--expires", "2001-01-01"], "EINVAL: --expires: 2001-01-01 00:00 is past"),
        (["ci", "--principal", "p", "--expires", "0s"], "EINVAL: --expires"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_kept(token, tmp_path, words, why):
    code, _, err = token("add", *words)

    assert code == 1 and why in err
    assert not (tmp_path / "state" / "tokens.json").exists()


def test_a_damaged_file_is_one_line_and_stays_as_it_is(token, tmp_path):
    token("add", "ci", "--principal", "alice")
    (tmp_path / "state" / "tokens.json").write_text("{")

    for words in (["list"], ["add", "b", "--principal", "p"], ["revoke", "ci"]):
        code, _, err = token(*words)
        assert code == 1 and "the token file" in err and "is damaged" in err
    assert (tmp_path / "state" / "tokens.json").read_text() == "{"


def test_the_state_directory_may_be_chosen(token, tmp_path):
    token("add", "ci", "--principal", "alice", "--state-dir", str(tmp_path / "other"))

    assert [t.name for t in TokenFile(tmp_path / "other").by_id().values()] == ["ci"]
    assert token("list", "--json")[1].strip() == "[]"


def test_an_expired_token_is_listed_as_such(token, monkeypatch):
    token("add", "ci", "--principal", "alice", "--expires", "60s")
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 61)

    assert token("list")[1].rstrip().endswith("(expired)")
