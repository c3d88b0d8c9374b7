"""Names of installed programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony.abi.reference import MAX_NAME, MAX_OWNER, demand_short, reference
from vllm_symphony.errors import InvalidArgument, NameTooLong


@pytest.mark.parametrize(
    ("text", "full_name", "version"),
    [
        ("triage", "me/triage", None),
        ("triage@1.2", "me/triage", "1.2"),
        ("ops/triage@2.0-rc1", "ops/triage", "2.0-rc1"),
        ("ann@example.com/tri-a.g_e2", "ann@example.com/tri-a.g_e2", None),
        ("a/b/c@1", "a/b/c", "1"),
    ],
)
def test_a_program_is_called_by_owner_name_and_version(text: str, full_name: str, version: str | None):
    found = reference(text, "me")

    assert found.full_name == full_name
    assert (found.version.text if found.version else None) == version


@pytest.mark.parametrize(
    "text", ["", "/", "/x", "ops/", "Triage", "a b", "-a", "a-", ".", "..", "a/../", "x@", "x@new", "x@1@2", "a\n", "o\0ps/x", "ä"]
)
def test_these_are_no_names(text: str):
    with pytest.raises(InvalidArgument):
        reference(text, "me")


@pytest.mark.parametrize("text", ["x" * (MAX_NAME + 1), "o" * (MAX_OWNER + 1) + "/x", "x" * 1_000_000, "/" * 1_000_000 + "x"])
def test_long_names_are_refused(text: str):
    with pytest.raises(InvalidArgument) as caught:
        reference(text, "me")
    with pytest.raises(NameTooLong):
        demand_short(text)

    assert len(caught.value.message) < 1000


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused(text: str):
    try:
        found = reference(text, "me")
    except InvalidArgument:
        return
    demand_short(text)
    assert reference(found.full_name, "you").full_name == found.full_name
