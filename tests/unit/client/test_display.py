"""Trees, tables, and programs that would like to be more than text."""

from dataclasses import replace

import pytest

from vllm_symphony.abi.types import ExitStatus, FileStat, ProcessEvent, ProcessStat, Usage
from vllm_symphony.client.display import FileList, Process, ProcessList, run_html, run_text
from vllm_symphony.client.run import RunResult

STAT = ProcessStat(
    pid=1, parent=None, name="tutor", principal="local", state="running", started_ns=0, ended_ns=3_100_000_000, num_threads=1,
    num_files=2, num_pages=3, waiting=("generate", "sleep"), usage=Usage(tokens_in=10, tokens_out=20),
)  # fmt: skip
FILE = FileStat(5, "/kb/a", 1, "local", 0o600, 100, 64, 4, "exact", 0, False, 0, 0)
HOSTILE = "<script>alert(1)</script>\x1b[2J\n"


def process(pid, parent=None, **other):
    return Process.of(replace(STAT, pid=pid, parent=parent, **other))


def event(kind, text):
    return ProcessEvent(1, 0, kind, text, 1)


def test_a_process_is_a_line_with_what_one_asks_first():
    assert str(process(1)) == "1 running   3.1s  10 in  20 out  tutor  (generate, sleep)"
    assert str(process(1, exit=ExitStatus(7, "exit"), waiting=())) == "1 exit 7    3.1s  10 in  20 out  tutor"


def test_a_process_is_still_what_the_abi_says():
    assert isinstance(process(1), ProcessStat)
    assert process(1).usage == STAT.usage
    assert process(1) == process(1) != process(2)


def test_processes_print_as_a_tree():
    shown = ProcessList([process(1), process(2, 1), process(3, 2), process(4, 1), process(5, 99)])

    assert [line.split(" ")[0] for line in str(shown).splitlines()] == ["1", "├─2", "│", "└─4", "5"]
    assert str(shown).splitlines()[2].startswith("│ └─3 running")
    assert str(ProcessList()) == "no processes"


def test_a_deep_family_is_shown_whole():
    shown = ProcessList([process(pid, pid - 1 or None) for pid in range(1, 3001)])

    assert len(str(shown).splitlines()) == 3000


def test_files_print_as_a_list_and_a_table():
    files = FileList([FILE, replace(FILE, path=None)])

    assert str(files).splitlines()[0] == "/kb/a  100 tokens, 64 computed"
    assert "<td>/kb/a</td><td>100</td><td>64</td><td>4</td><td>local</td><td>0600</td>" in files._repr_html_()


@pytest.mark.parametrize(
    "html",
    [
        process(1, name=HOSTILE)._repr_html_(),
        ProcessList([process(1, name=HOSTILE, waiting=(HOSTILE,))])._repr_html_(),
        FileList([replace(FILE, path=HOSTILE, owner=HOSTILE)])._repr_html_(),
        run_html(1, HOSTILE, None, [event("stdout", HOSTILE), event("stderr", HOSTILE), event("emit", HOSTILE)]),
        run_html(1, "", RunResult(ExitStatus(0, "exit"), process(1, name=HOSTILE)), []),
    ],
)
def test_what_a_program_says_is_text_in_a_notebook(html):
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    "text",
    [
        str(process(1, name=HOSTILE)),
        str(FileList([replace(FILE, path=HOSTILE)])),
        run_text(1, HOSTILE, None, [event("stdout", "\x1b[2Jgone\r"), event("stdout", "\x9b2J")]),
    ],
)
def test_what_a_program_says_moves_no_cursor(text):
    assert not any(c in text for c in "\x1b\r\x9b")
    assert "\\x" in text


def test_a_run_shows_its_state_and_its_last_lines():
    assert run_text(None, "prog", None, []) == "prog: not started"
    lines = run_text(7, "prog", None, [event("started", ""), event("stdout", "a\nb\n"), event("gap", "12"), event("exit", "{}")])
    assert lines == "process 7 (prog): running\n  a\n  b\n  (12 events were dropped)"


@pytest.mark.parametrize("shown", [process(1), ProcessList([process(1)]), FileList([FILE])])
def test_a_notebook_gets_a_table_and_a_prompt_gets_text(shown):
    bundle = shown._repr_mimebundle_()

    assert bundle["text/plain"] == str(shown)
    assert bundle["text/html"].startswith("<table>")
