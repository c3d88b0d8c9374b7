"""Words to values: a program's options, times, and what is imported for which command."""

import argparse
import subprocess
import sys
import time

import pytest

from vllm_symphony.cli import run, serve
from vllm_symphony.cli.main import SUMMARIES, main
from vllm_symphony.cli.moment import duration, moment

PROGRAM = '''
async def main(question: str, n: int = 4, rate: float = 0.5, deep: bool = False, max_tokens: int = 8,
               tags: list[str] = [], schema: dict | None = None, file: str = "x", json: str = ""):
    """Think.

    Args:
        question: what to ask, 100% sure
    """
'''


@pytest.fixture
def parse(tmp_path):
    path = tmp_path / "p.py"
    path.write_text(PROGRAM)

    def parse(*words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog="symphony run", allow_abbrev=False)
        run.arguments(parser)
        return run.parse(parser, [str(path), *words])

    return parse


def test_a_programs_options_become_typed_arguments(parse):
    args = parse("--question", "why", "--n", "2", "--rate", "1", "--deep", "--tags", "a", "--tags", "b", "--schema", '{"a": 1}')

    assert args.program_args == {"question": "why", "n": 2, "rate": 1.0, "deep": True, "tags": ["a", "b"], "schema": {"a": 1}}


def test_what_was_not_given_is_left_to_the_program(parse):
    assert parse("--question", "why").program_args == {"question": "why"}


def test_options_have_dashes_for_underscores(parse):
    assert parse("--question", "", "--max-tokens", "1").program_args["max_tokens"] == 1
    assert parse("--question", "", "--max_tokens", "1").program_args["max_tokens"] == 1


def test_a_programs_option_wins_over_ours_of_that_name(parse):
    args = parse("--question", "", "--file", "f", "--json", "j")

    assert args.program_args == {"question": "", "file": "f", "json": "j"}
    assert args.json is False


def test_json_may_come_from_a_file_or_be_a_plain_word(parse, tmp_path):
    (tmp_path / "s.json").write_text("[1]")

    assert parse("--question", "", "--schema", f"@{tmp_path / 's.json'}").program_args["schema"] == [1]
    assert parse("--question", "", "--schema", "word").program_args["schema"] == "word"


@pytest.mark.parametrize(
    "words", [["--n", "x"], ["--question"], [], ["--schema", "{", "--question", ""], ["--schema", "@/nowhere", "--question", ""]]
)
def test_what_does_not_fit_is_wrong_usage(parse, words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*words)

    assert ended.value.code == 2


def test_our_options_may_stand_before_the_file(tmp_path):
    path = tmp_path / "p.py"
    path.write_text("async def other(a: int): ...\n")
    parser = argparse.ArgumentParser(prog="symphony run", allow_abbrev=False)
    run.arguments(parser)

    args = run.parse(parser, ["--entry", "other", "--json", str(path), "--a", "1"])

    assert (args.program.entry, args.program.name, args.json, args.program_args) == ("other", "p", True, {"a": 1})


def test_serve_passes_on_what_is_not_its_own():
    parser = argparse.ArgumentParser(prog="symphony serve", allow_abbrev=False)
    serve.arguments(parser)

    args = serve.parse(parser, ["--run-dir", "/r", "org/model", "--max-model-len", "4096", "--grace", "1", "--enforce-eager"])

    assert args.model_args == ("org/model", "--max-model-len", "4096", "--enforce-eager")
    assert (str(args.run_dir), args.grace) == ("/r", 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.123, "0.12s"), (12.34, "12.3s"), (245, "4m05s"), (7620, "2h07m"), (273_600, "3d04h")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_a_moment_is_an_age_or_a_date():
    assert abs(moment("10m") - (time.time_ns() - 600 * 10**9)) < 10**9
    assert moment("1970-01-01T00:00:01+00:00") == 10**9
    with pytest.raises(argparse.ArgumentTypeError):
        moment("soon")


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_has_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0

    out = capsys.readouterr().out
    assert f"usage: symphony {name}" in out
    assert f"example:\n  symphony {name}" in out


def test_help_and_version_import_no_grpc_and_a_client_command_nothing_of_the_server():
    def loaded(statement: str) -> set[str]:
        code = f"import sys; {statement}; print(*sys.modules)"
        return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())

    help_ = loaded("from vllm_symphony.cli.main import main; main(['--help'])")
    ps = loaded("import vllm_symphony.cli.ps")

    assert not {"grpc", "asyncio", "google.protobuf"} & help_
    assert "grpc" in ps
    assert not {"msgspec", "vllm", "torch", "google.rpc", "vllm_symphony.edge", "vllm_symphony.kernel"} & ps
