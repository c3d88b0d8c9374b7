"""docs/wasm.md says what the code does."""

import re
from pathlib import Path

from vllm_symphony.kernel.limits import Limits
from vllm_symphony.runtime.wasm import as_json, calls, module, program, wasi

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/wasm.md").read_text()


def row(first: str) -> str:
    """The cell beside this one."""
    return next(line.split("|")[2] for line in PAGE.splitlines() if line.startswith(f"| {first}"))


def test_the_limits_are_those_of_the_code():
    sizes = row("module")
    assert (
        f"{module.MAX_MODULE_BYTES >> 20} MiB, {module.MAX_FUNCTIONS:,} functions, {module.MAX_FUNCTION_BYTES >> 10} KiB" in sizes
    )
    assert f"{module.MAX_FUNCTION_COST // 10**6} million; {module.MAX_COMPILE_S:.0f} s of CPU" in sizes
    assert Limits().program_bytes == module.MAX_MODULE_BYTES
    assert program.guest_bytes(4) == 3 and "three quarters" in row("memory")
    assert f"{program.DEFAULT_MEMORY_BYTES >> 20} MiB by default" in row("memory")
    assert f"{program.MAX_TABLES}, of {program.MAX_TABLE_ELEMENTS:,} elements" in row("tables")
    assert f"{module.MAX_STACK_BYTES >> 10} KiB" in row("stack")


def test_the_forms_of_fields_are_those_of_the_code():
    tokens = next(line for line in PAGE.splitlines() if line.endswith("| list of integers |"))
    floats = next(line for line in PAGE.splitlines() if line.endswith("| list of numbers |"))

    assert set(re.findall(r"`(\w+)`", tokens)) == as_json.TOKENS
    assert set(re.findall(r"`(\w+)`", floats)) == as_json.FLOATS


def test_the_page_names_the_modules_of_imports():
    assert wasi.MODULE in PAGE


def test_the_page_and_the_header_of_the_example_declare_the_functions():
    header = (ROOT / "examples/wasm/symphony.h").read_text()

    imported = [(calls.MODULE, name) for name in calls.FUNCTIONS]
    assert re.findall(r'import_module\("(\w+)"\), import_name\("(\w+)"\)', header) == imported
    assert re.findall(r'\(import "(\w+)" "(\w+)"', PAGE) == imported
