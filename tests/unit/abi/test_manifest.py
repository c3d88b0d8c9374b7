"""The block of PEP 723: what it declares, and that anything else is BadProgram in bounded time."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony.abi import manifest
from vllm_symphony.abi.manifest import MAX_BLOCK, MAX_DOTS, NONE, Manifest, abi_of, read
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.errors import BadProgram

MILLION = 1_000_000


def block(text: str, *, after: str = "async def main(): ...\n") -> str:
    lines = "".join(f"# {line}\n" if line else "#\n" for line in text.split("\n"))
    return f'"""A program."""\n\n# /// script\n{lines}# ///\n{after}'


def refused(source: str) -> BadProgram:
    with pytest.raises(BadProgram) as caught:
        read(source)
    return caught.value


def test_all_of_a_manifest():
    found = read(block(
        'dependencies = ["numpy>=1.24,<3", "Typing_Extensions"]\nrequires-python = ">=3.11"\n\n[tool.symphony]\n'
        'description = "Sorts tickets."\ntools = ["web.*"]\npaths = ["/kb", "~/tickets", "~"]\n'
        '[tool.symphony.limits]\ntokens = 20000\nwall_s = "5m"\ncpu_s = 1.5\nmemory_bytes = "512MiB"\ndepth = 0\n[tool.uv]\nx = 1'
    ))  # fmt: skip

    assert [(need.name, need.text) for need in found.dependencies] == [
        ("numpy", "numpy>=1.24,<3"), ("typing-extensions", "Typing_Extensions"),
    ]  # fmt: skip
    assert [str(clause) for clause in found.requires_python] == [">=3.11"]
    assert (found.description, found.tools, found.paths) == ("Sorts tickets.", ("web.*",), ("/kb", "~/tickets", "~"))
    assert found.limits == ResourceLimits(tokens=20000, wall_s=300.0, cpu_s=1.5, memory_bytes=512 << 20, depth=0)


def test_a_text_without_a_block_declares_nothing():
    assert read("async def main(): ...") is NONE
    assert read("x = '# /// script'\n # /// script\n# /// scripts\n") is NONE
    assert Manifest() == NONE and NONE.tools is None and NONE.paths is None


def test_who_has_a_table_of_ours_says_there_which_tools_it_needs():
    assert read(block('dependencies = ["numpy"]')).tools is None
    assert read(block('[tool.symphony]\npaths = ["/kb"]')).tools == ()


def test_a_block_ends_at_its_last_closing_line_as_pep_723_says():
    assert read("# /// script\n# [tool.symphony]\n# paths = ['''/a\n# ///\n# ''']\n# ///\nx = 1\n# ///\n").paths == ("/a\n///\n",)


def test_line_ends_of_windows_are_line_ends():
    assert read(block('[tool.symphony]\ntools = ["a"]').replace("\n", "\r\n")).tools == ("a",)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("dependencies = [", 4, "no TOML"),
        ("x = 1\ny = 2", 4, "x is not known"),
        ("\n\ndependencies = 'numpy'", 6, "dependencies must be a list"),
        ("dependencies = [1]", 4, "texts of 1..1024 characters only, not a number"),
        ("dependencies = ['numpy[all]']", 4, "extras"),
        ("requires-python = 3", 4, "requires-python must be a text"),
        ("requires-python = 'new'", 4, "no clause like"),
        ("tool = 1", 4, "tool must be a table"),
        ("tool.symphony = 1", 4, "tool.symphony must be a table"),
        ("[tool.symphony]\npath = ['/kb']", 5, "path of tool.symphony is not known"),
        ("[tool.symphony]\npaths = ['kb']", 5, "must begin with / or ~/"),
        ("[tool.symphony]\ntools = ['']", 5, "texts of 1..1024"),
        ("[tool.symphony]\npriority = 1.5", 5, "whole number in -100..100"),
        ("[tool.symphony]\npriority = true", 5, "whole number in -100..100"),
        ("[tool.symphony]\npriority = 101", 5, "whole number in -100..100"),
        ("[tool.symphony]\nlimits = 5", 5, "limits must be a table"),
        ("[tool.symphony]\nlimits.toks = 5", 5, "toks is no limit"),
        ("[tool.symphony]\nlimits.tokens = -1", 5, "whole number of 0 or more"),
        ("[tool.symphony]\nlimits.tokens = true", 5, "whole number"),
        ("[tool.symphony.limits]\ntokens = 1.5", 5, "whole number"),
        ("[tool.symphony.limits]\n\nwall_s = '5 fortnights'", 6, 'a time like "90s"'),
        ("[tool.symphony.limits]\nwall_s = nan", 5, "number of 0 or more"),
        ("[tool.symphony.limits]\nwall_s = inf", 5, "number of 0 or more"),
        ("[tool.symphony.limits]\nmemory_bytes = 'much'", 5, 'a size like "512MiB"'),
        ("[tool.symphony.limits]\ncalls_per_s = '5s'", 5, "must be a number of 0 or more, not"),
        ("[tool.symphony]\ndescription = 1979-05-27", 5, "not a date or time"),
        ("x = 1979-99-99", 4, "no TOML"),
        ("x = \"\\ud800\"", 4, "no TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(text: str, line: int, why: str):
    error = refused(block(text))

    assert why in error.message and f"line {line}" in error.message
    assert error.values["line"] == line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90", 90.0), ("'90s'", 90.0), ("'1.5h'", 5400.0), ("'250ms'", 0.25), ("'2 m'", 120.0), ("'1d'", 86400.0), ("0", 0.0)],
)
def test_times_are_seconds_or_words(text: str, wanted: float):
    assert read(block(f"[tool.symphony.limits]\nwall_s = {text}")).limits.wall_s == wanted


@pytest.mark.parametrize(
    ("text", "wanted"), [("4096", 4096), ("'64k'", None), ("'64KB'", 65536), ("'1.5GiB'", 3 << 29), ("'512mib'", 512 << 20)]
)
def test_sizes_are_bytes_or_words(text: str, wanted: int | None):
    source = block(f"[tool.symphony.limits]\nmemory_bytes = {text}")

    if wanted is None:
        refused(source)
    else:
        assert read(source).limits.memory_bytes == wanted


def test_a_block_that_is_not_closed_restricts_nobody_and_so_is_an_error():
    error = refused("import json\n# /// script\n# [tool.symphony]\n# paths = []\nx = 1\n# ///\n")

    assert "line 2 is not closed: no line `# ///` comes before line 5" in error.message


def test_there_may_be_one_block():
    assert "second manifest begins in line 8" in refused(block("", after="") * 2).message
    assert refused(block("x = 1") + block("y = 1")).values["line"] == 9


def test_a_nul_is_told_with_its_line():
    assert refused("a = 1\nb = '\0'\n").values["line"] == 2


HOSTILE = {
    "a million brackets": "[" * MILLION,
    "a million brackets in a value": "a = " + "[" * MILLION,
    "brackets as many as fit": "a = " + "[" * (MAX_BLOCK - 10),
    "tables in tables": "a = " + "{a=" * (MAX_BLOCK // 4),
    "a number of 8,000 digits": "a = " + "9" * 8000,
    "a hexadecimal one": "a = 0x" + "f" * 8000,
    "a key of 4,000 parts": "a" + ".a" * 4000 + " = 1",
    "a table of 4,000 parts": "[" + "a." * 4000 + "a]",
    "many keys of many parts": "\n".join("a" + ".a" * (MAX_DOTS - 1) + f".b{i} = 1" for i in range(50)),
    "arrays of tables": "\n".join("[[a]]" for _ in range(1300)),
    "a text without end": "a = '''" + "x" * 8000,
    "quotes": '"' * 8000,
    "lists without end": "\n".join(f"a{i} = [" for i in range(900)),
    "empty lists": "a = [" + "[]," * 2600 + "]",
    "a long name": "dependencies = ['a" + "-" * 7000 + "']",
    "many dependencies": "dependencies = [" + "'a'," * 2000 + "]",
    "many paths": "[tool.symphony]\npaths = [" + "'/'," * 1900 + "]",
    "a long version": "dependencies = ['a>=" + "1" * 7000 + "']",
    "a long description": "[tool.symphony]\ndescription = '" + "x" * 8000 + "'",
}
TEXTS = {
    "openings": "# /// script\n" * 300_000,
    "never closed": "# /// script\n" + "#\n" * MILLION,
    "one long line": "# /// script\n# " + "x" * 4 * MILLION + "\n# ///\n",
    "many blocks": "# /// script\n# ///\n" * 200_000,
    "nulls": "\0" * MILLION,
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_blocks_are_errors_soon(what: str):
    refused(block(HOSTILE[what]))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("what", TEXTS)
def test_hostile_texts_are_errors_soon(what: str):
    refused(TEXTS[what])


def test_brackets_without_end_in_the_code_are_not_the_manifests_business():
    assert read(block('[tool.symphony]\ntools = ["a"]', after="x = " + "[" * MILLION)).tools == ("a",)


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["[tool.symphony]", "[tool.symphony.limits]", "tokens = 5", 'wall_s = "5m"', 'paths = ["/kb"]', 'tools = ["*"]',
             'dependencies = ["numpy"]', "[[tool]]", "# ///", "a.b.c = {}", "x = '''", "'''", "]", "= 1", "[tool", "limits = {}"]
        ),
        st.text(max_size=30),
    ),
    max_size=12,
)  # fmt: skip


@given(LINES)
def test_any_block_is_a_manifest_or_bad(lines: list[str]):
    with suppress(BadProgram):
        assert isinstance(read(block("\n".join(lines))), Manifest)


@given(st.text())
def test_any_text_is_a_program_or_bad(source: str):
    try:
        assert isinstance(read(source), Manifest)
    except BadProgram:
        assert "\0" in source or manifest._OPEN in source


def test_the_abi_that_a_text_was_written_for_stands_in_it():
    assert abi_of('"""x"""\n__abi__ = "1.3"\n') == "1.3"
    assert abi_of("__abi__ = 1.3") == ""
