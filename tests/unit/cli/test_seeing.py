"""Lines of strace and why, and what becomes of a part."""

import argparse
import json
import re

import pytest

from tests.unit.trace.records import T0, call
from vllm_symphony.abi.calls import StracePart
from vllm_symphony.abi.types import ThreadWait
from vllm_symphony.cli import strace, why
from vllm_symphony.cli.moment import clock


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    strace.arguments(parser)
    return parser.parse_args(words)


def test_a_line_has_seconds_when_they_are_asked_for_and_steps_when_there_are_some():
    record = call(1, start=0, end=12_345, step_first=4, step_last=9)

    assert strace.text(record, False) == f"{clock(T0)}  12/0  forward(fd=3 n=1) = ok  [step 4-9]"
    assert strace.text(record) == f"{clock(T0)}  12/0  forward(fd=3 n=1) = ok  <0.012345>  [step 4-9]"
    assert strace.text(call(1, "fork", result="EMFILE"), False).endswith("  12/0  fork(fd=3 n=1) = EMFILE")


def test_missing_calls_are_told_where_they_were(capsys):
    with strace.shown(parsed("--once")) as log:
        log.take(StracePart((call(5),), (), 1234))
        log.take(StracePart((), (), 1))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "... 1,234 calls are missing: the log had no more room"
    assert "forward(" in lines[1]
    assert lines[2] == "... 1 call is missing: the log had no more room"


def test_missing_calls_are_told_in_json_too(capsys):
    with strace.shown(parsed("--json")) as log:
        log.take(StracePart((), (), 7))

    assert json.loads(capsys.readouterr().out) == {"missing": 7}


def test_the_table_is_printed_however_it_ends(capsys):
    def interrupted() -> None:
        with strace.shown(parsed("-c", "-e", "!fork")) as log:
            log.take(StracePart((call(1), call(2, "fork"))))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["CALL", "forward", "total"]


def test_why_is_a_line_for_each_thread():
    wait = ThreadWait(0, "main", "forward", "fd=3 n=1", T0, "pages", "needs 12 pages, 3 are free")

    assert why.text(wait, T0 + 1_200_000_000) == (
        "thread 0 (main): forward(fd=3 n=1) for 1.2 s: waits for pages: needs 12 pages, 3 are free"
    )
    assert why.text(ThreadWait(3, "", "", "", T0, "running"), T0) == "thread 3: for 0.0 s: its own code runs"


def test_why_has_words_for_every_cause_of_the_abi():
    causes = re.findall(r"^    ([a-z]+) +\S", ThreadWait.__doc__ or "", re.MULTILINE)

    assert list(why.CAUSES) == causes
