"""Versions and requirements against `packaging`, which clients need not have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement as Real
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version as RealVersion

from vllm_symphony.abi.version import MAX_VERSION, parse, requirement, specifier

NUMBERS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
PHASES = st.sampled_from(["", "a1", "b2", "rc1", "-rc.2", "_beta3", ".alpha", "c4", "preview1"])
POSTS = st.sampled_from(["", ".post1", "-2", ".rev3", "r1", "-post"])
DEVS = st.sampled_from(["", ".dev1", "dev", "-dev2"])
VERSIONS = st.builds("{}{}{}{}".format, NUMBERS, PHASES, POSTS, DEVS)
CLAUSES = st.one_of(
    st.builds("{}{}".format, st.sampled_from(["==", "!=", "<=", ">=", "<", ">"]), VERSIONS),
    st.builds("{}{}.*".format, st.sampled_from(["==", "!="]), NUMBERS),
    st.builds("~={}.{}".format, st.integers(0, 3), NUMBERS),
)


@given(VERSIONS, VERSIONS)
def test_the_order_is_that_of_pep_440(a: str, b: str):
    ours, real = (parse(a), parse(b)), (RealVersion(a), RealVersion(b))

    assert (ours[0] < ours[1], ours[0] == ours[1]) == (real[0] < real[1], real[0] == real[1])
    assert ours[0].is_prerelease == real[0].is_prerelease
    assert ours[0] != ours[1] or hash(ours[0]) == hash(ours[1])


@given(VERSIONS, st.lists(CLAUSES, max_size=3).map(",".join))
def test_a_requirement_allows_what_pip_would_keep(number: str, clauses: str):
    ours = requirement(f"numpy{clauses}")

    assert ours.allows(parse(number)) == SpecifierSet(clauses).contains(RealVersion(number), prereleases=True)


@given(st.text(max_size=40))
def test_what_is_no_version_is_an_error_and_nothing_else(text: str):
    try:
        ours = parse(text)
    except ValueError:
        return
    assert RealVersion(text) == RealVersion(ours.text)


@given(st.text(alphabet="numpy-_.=<>!~*,;[]()@ 123", max_size=40))
def test_what_is_understood_of_a_requirement_means_what_pip_means(text: str):
    try:
        ours = requirement(text)
    except ValueError:
        return
    real = Real(text)
    assert ours.name == canonicalize_name(real.name)
    assert {str(clause).replace(" ", "") for clause in ours.clauses} == {str(clause) for clause in real.specifier}


@pytest.mark.parametrize("text", ["", "1.", ".1", "1!2", "one", "1 2", "1/2", "1.2@3", "1" * (MAX_VERSION + 1), "1\n", "١"])
def test_these_are_no_versions(text: str):
    with pytest.raises(ValueError, match="no version"):
        parse(text)


def test_zeros_at_the_end_do_not_count_and_a_local_part_neither():
    assert parse("1.2") == parse("1.2.0") == parse("v1.2.0.0") == parse("1.2+cpu")
    assert parse("1.2.0").text == "1.2.0"


@pytest.mark.parametrize(
    ("text", "why"),
    [("numpy[dev]", "extras"), ("numpy; python_version > '3'", "markers"), ("numpy @ https://x/y.whl", "addresses"),
     ("numpy 1.0", "no clause"), ("numpy>=", "no version"), ("numpy===1.0", "no version"), (">=1.0", "begins with no name"),
     ("numpy==1.0rc1.*", "only numbers"), ("numpy~=1", "two numbers"), ("", "begins with no name")],
)  # fmt: skip
def test_what_is_not_understood_of_a_requirement_is_said(text: str, why: str):
    with pytest.raises(ValueError, match=why):
        requirement(text)


def test_a_clause_is_shown_as_it_was_written():
    assert [str(clause) for clause in specifier(">=3.11, ==3.*,~=3.11.0")] == [">=3.11", "==3.*", "~=3.11.0"]
