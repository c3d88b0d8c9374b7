"""Secrets: which forms of a value are found, and what may be one."""

import base64
from pathlib import Path
from urllib.parse import quote, quote_plus

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tools.local import config
from vllm_symphony.errors import AccessDenied, InvalidArgument
from vllm_symphony.tools.secret import Vault, _forms

PLACES = """
[http.get]
allow = ["https://api.example"]
[python.desk]
file = "desk.py"
[secret.key]
env = "KEY"
tools = ["get"]
principals = ["ops-*"]
url = "https://api.example/v1/"
header = "X-Key"
format = "token={}"
[secret.desk]
file = "desk.secret"
tools = ["desk"]
"""


def vault(folder: Path, **environment: str) -> Vault:
    (folder / "desk.py").write_text("")
    (folder / "desk.secret").write_text("of the desk\n")
    return Vault(config(folder, PLACES), environment)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=40),
    st.binary(max_size=9),
    st.binary(max_size=9),
)
def test_a_value_is_found_in_base64_wherever_it_begins(value: str, before: bytes, after: bytes) -> None:
    forms = _forms(value)

    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + value.encode() + after).decode()
        assert any(form in text for form in forms)
    for text in (value, quote(value), quote(value, safe=""), quote_plus(value), value.encode().hex()):
        assert any(form in text for form in forms)


def test_values_are_named_where_they_were(tmp_path: Path) -> None:
    v = vault(tmp_path, KEY="a b&c<d>e'f")

    assert v.scrub("x a b&c<d>e'f y a+b%26c%3Cd%3Ee%27f z of the desk") == "x [secret key] y [secret key] z [secret desk]"
    assert v.scrub_json({"k a b&c<d>e'f": ["of the desk", 1, None]}) == {"k [secret key]": ["[secret desk]", 1, None]}
    assert v.scrub("nothing of it") == "nothing of it"


def test_a_request_gets_what_is_bound_to_it(tmp_path: Path) -> None:
    v = vault(tmp_path, KEY="value-of-key")
    here, there = httpx2.URL("https://api.example/v1/x"), httpx2.URL("https://api.example/v2")

    assert v.headers("get", "ops-1", here) == {"X-Key": "token=value-of-key"}
    assert v.headers("get", "ops-1", there) == v.headers("get", "dev", here) == v.headers("other", "ops-1", here) == {}
    assert v.query("get", "ops-1", here) == v.variables("get", "ops-1") == {}


def test_a_function_gets_what_is_bound_to_its_plugin(tmp_path: Path) -> None:
    v = vault(tmp_path, KEY="value-of-key")

    assert v.value("desk", "desk", "anybody") == "of the desk"
    for name, plugin in (("key", "desk"), ("desk", "other"), ("none", "desk")):
        with pytest.raises(AccessDenied):
            v.value(name, plugin, "ops-1")


@pytest.mark.parametrize(
    ("value", "said"), [("", "is not set"), ("5hort", "has 5 characters"), ("line\nbreak", "control character")]
)
def test_a_value_that_cannot_be_one_is_refused_without_being_shown(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        vault(tmp_path, KEY=value)

    assert "[secret.key]" in refused.value.message and not (value and value in refused.value.message)
