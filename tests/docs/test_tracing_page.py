"""The page on tracing: its event log is one, its causes are the abi's, its words are the command's."""

import re
from pathlib import Path

from vllm_symphony.abi.types import CallRecord, StepRecord
from vllm_symphony.cli.main import main
from vllm_symphony.cli.why import CAUSES
from vllm_symphony.trace.choice import KINDS
from vllm_symphony.trace.file import LoggedProcess, read

PAGE = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text()


def test_the_event_log_on_the_page_is_one():
    (block,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

    header, *items = read(block.splitlines(keepends=True))

    assert header["version"] == 1
    assert [type(item) for item in items] == [LoggedProcess, CallRecord, CallRecord, StepRecord]


def test_every_cause_is_on_the_page():
    assert set(re.findall(r"^\| `([a-z]+)` \|.*\|.*\|$", PAGE, re.MULTILINE)) >= CAUSES.keys()


def test_every_option_of_strace_is_on_the_page(capsys):
    main(["strace", "--help"])
    ours = capsys.readouterr().out.split("server:")[0]

    options = set(re.findall(r"^  (--?[a-zA-Z]+)", ours, re.MULTILINE)) - {"-h"}

    assert options and all(f"`{option}" in PAGE for option in options), options
    assert all(f"`{kind}`" in PAGE for kind in KINDS)
