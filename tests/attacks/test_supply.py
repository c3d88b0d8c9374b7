"""Sources, archives and packages that are made to harm: they are refused with a reason, or find nothing to harm."""

import os

import pytest

from tests.attacks.arena import How
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.client import Program

MAIN = "async def main():\n    return 1\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\0\n" + MAIN, "NUL"),
        ("(" * 1_000_000 + ")" * 1_000_000, ""),
        ("x = " + "-" * 500_000 + "1\n" + MAIN, ""),
        ("x = " + "[" * 90 + "]" * 90 + ".a" * 200_000 + "\n" + MAIN, ""),
        ("lambda: " * 100_000 + "0", ""),
        ("\ufeff" + "if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 150)), ""),
    ],
    ids=["null bytes", "a million brackets", "half a million minus signs", "attributes", "lambdas", "indentation"],
)
def test_a_source_that_harms_compilers_is_refused_or_ends_its_own_process(arena, source, said):
    outcome = arena.run(Program(source))

    assert said in outcome.printed + outcome.error
    assert (outcome.code, outcome.reason) in ((-1, "ENOEXEC"), (2, "program"), (139, "signal"), (137, "limit"), (1, "exception"))


def test_a_zip_bomb_ends_at_the_memory_limit_of_its_program(arena):
    outcome = arena.attack("supply", "zip_bomb", how=How(ResourceLimits(memory_bytes=128 << 20)))

    assert (outcome.code, outcome.reason) == (137, "limit") or "MemoryError" in outcome.error


def test_archives_do_not_unpack_anywhere(arena):
    assert set(arena.attack("supply", "zip_slip").value) <= {"PermissionError", "FileNotFoundError", "OSError"}
    assert not os.path.exists("/tmp/slipped")


def test_no_link_and_no_device_can_be_made(arena):
    assert set(arena.attack("supply", "links").value) <= {"PermissionError", "FileNotFoundError", "OSError"}


def test_no_package_can_be_brought_in(arena):
    found = arena.attack("supply", "wheels").value

    assert found and "went through" not in found.values()


def test_a_dependency_that_the_image_lacks_is_named_and_nothing_is_installed(arena):
    source = f'# /// script\n# dependencies = ["definitely-not-here-1f2e"]\n# ///\n{MAIN}'

    outcome = arena.run(Program(source))

    assert (outcome.code, outcome.reason) == (-1, "ENOEXEC")
    assert "definitely-not-here-1f2e" in outcome.error and "nothing is installed" in outcome.error
