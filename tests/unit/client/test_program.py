"""What a run is of: a text, a file, a module, or a name of the registry."""

import pytest

from vllm_symphony.client import client as module
from vllm_symphony.client.run import Program
from vllm_symphony.errors import BadProgram, InvalidArgument


def test_a_file_is_a_program_by_its_content(tmp_path):
    (tmp_path / "a.py").write_text("async def main():\n    pass\n")
    (tmp_path / "b.wasm").write_bytes(b"\0asm\1\0\0\0")

    text, wasm = Program.of(tmp_path / "a.py"), Program.of(str(tmp_path / "b.wasm"))

    assert (text.name, text.code, text.source.splitlines()[0]) == ("a", b"", "async def main():")
    assert (wasm.name, wasm.code, wasm.source) == ("b", b"\0asm\1\0\0\0", "")


def test_bytes_are_a_module():
    assert Program.of(b"\0asm").code == b"\0asm"


@pytest.mark.parametrize(
    ("text", "name"),
    [("ops/triage@1.2", "triage"), ("triage@1.2.0-rc1", "triage"), ("ops/triage", "triage"), ("triage", "triage"),
     ("ann@example.org/triage", "triage"), ("ann@example.org/triage@1", "triage")],
)  # fmt: skip
def test_a_name_that_no_file_has_is_one_of_the_registry(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert Program.of(text) == Program(installed=text, name=name)


def test_a_file_comes_before_an_installed_program_without_a_version(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "triage").write_text("async def main():\n    pass\n")

    assert Program.of("triage").source
    assert Program.of("triage@1").installed == "triage@1"


@pytest.mark.parametrize("text", ["missing.py", "missing.wasm", "/no/such", "a/b/c", "../x"])
def test_what_can_be_a_path_only_is_one(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(BadProgram, match="cannot read"):
        Program.of(text)


def test_arguments_with_the_names_of_our_own_keywords_go_by_the_program():
    made = module._program(Program("x", args={"tools": 1, "n": 2}), {"n": 3})

    assert made.args == '{"tools": 1, "n": 3}'


def test_arguments_that_are_no_json_are_told():
    with pytest.raises(InvalidArgument, match="must be JSON"):
        module._program(Program("x"), {"a": object()})
