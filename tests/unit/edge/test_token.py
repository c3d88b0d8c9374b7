import re

import pytest

from vllm_symphony.edge.token import holds_token, make, proves, split
from vllm_symphony.errors import InvalidArgument


def test_the_text_is_an_id_and_a_secret_of_256_bits():
    token, text = make("ci", "alice", now_s=5.0, groups=("a", "b", "a"), scopes=("run", "run"))

    assert re.fullmatch(r"sym_[0-9a-f]{12}_[0-9a-f]{64}", text)
    assert split(text)[0] == token.id
    assert (token.name, token.principal, token.groups, token.scopes) == ("ci", "alice", ("a", "b"), ("run",))


def test_nothing_of_the_secret_is_kept_or_shown():
    token, text = make("ci", "alice", now_s=0.0)
    secret = split(text)[1]

    assert secret not in str([getattr(token, name) for name in token.__slots__])
    assert token.sha256 not in repr(token)


def test_only_its_own_secret_proves_a_token():
    token, text = make("ci", "alice", now_s=0.0)
    _, other = make("ci", "alice", now_s=0.0)

    assert proves(split(text)[1], token)
    assert not proves(split(other)[1], token)
    assert not proves(split(text)[1], None)


@pytest.mark.parametrize("cut", [1, 10, 64, 65, 70])
def test_a_truncated_token_is_none(cut):
    _, text = make("ci", "alice", now_s=0.0)

    assert split(text[:-cut]) is None
    assert split(text[cut:]) is None


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t + "0", lambda t: t + "\n", lambda t: " " + t, lambda t: t.replace("_", "-")]
)
def test_a_malformed_token_is_none(change):
    assert split(change(make("ci", "alice", now_s=0.0)[1])) is None


def test_a_token_is_found_in_any_text():
    _, text = make("ci", "alice", now_s=0.0)

    assert holds_token(f"https://{text}@host") and holds_token(text[:20])
    assert not holds_token("sym_links are fine")


def test_it_expires_at_its_time():
    token, _ = make("ci", "alice", now_s=0.0, expires_s=10.0)
    for_ever, _ = make("ci", "alice", now_s=0.0)

    assert [token.is_expired(t) for t in (9.9, 10.0, 11.0)] == [False, True, True]
    assert not for_ever.is_expired(1e12)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "-x", "x" * 65, "a\nb", "é", ".x"])
def test_names_that_would_confuse_a_log_or_a_path_are_refused(name):
    for words in ((name, "p", ()), ("n", name, ()), ("n", "p", (name,))):
        with pytest.raises(InvalidArgument):
            make(words[0], words[1], now_s=0.0, groups=words[2])


def test_an_unknown_scope_is_refused_with_those_there_are():
    with pytest.raises(InvalidArgument, match=r"no such scope: root \(there are: admin, run\)"):
        make("n", "p", now_s=0.0, scopes=("run", "root"))
