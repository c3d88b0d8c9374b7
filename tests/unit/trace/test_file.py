import io
import json
from pathlib import Path

import pytest

from tests.unit.trace.records import call, step
from vllm_symphony import errors
from vllm_symphony.abi.calls import StracePart
from vllm_symphony.trace.file import LoggedProcess, Missing, Writer, load, read

CALLS = (call(1), call(2, "fork", 20, 21, pid=13), call(3, result="ENOSPC", step_first=4, step_last=9))
HEADER = '{"format":"symphony-event-log","version":1,"abi":"1.5","written_ns":5}\n'


def written(*items) -> str:
    out = io.StringIO()
    writer = Writer(out, written_ns=5)
    for item in items:
        writer.add(item)
    return out.getvalue()


def saved(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    return path


def test_what_was_written_is_read_again():
    items = [LoggedProcess(12, None, "best_of_n"), Missing(1234), *CALLS, step(4, 0, 5)]

    header, *again = read(io.StringIO(written(*items)))

    assert again == items
    assert header == json.loads(HEADER)


def test_a_part_is_written_as_its_gap_its_calls_and_its_steps():
    out = io.StringIO()

    Writer(out, written_ns=5).add_part(StracePart(CALLS[:1], (step(4, 0, 5),), 7))

    assert [json.loads(line).get("kind") for line in out.getvalue().splitlines()] == [None, "missing", "call", "step"]


def test_the_calls_of_a_process_are_found_with_those_of_its_children(tmp_path):
    family = (LoggedProcess(12), LoggedProcess(13, 12), LoggedProcess(14, 13), LoggedProcess(15))
    log = load(saved(tmp_path, written(*family, *(call(n, pid=n) for n in (12, 13, 14, 15)), Missing(3), step(4, 0, 5))))

    def pids(*args) -> list[int]:
        return [record.pid for part in log.of(*args) for record in part.records]

    assert pids(None, False) == [12, 13, 14, 15]
    assert pids(12, False) == [12]
    assert pids(12, True) == [12, 13, 14]
    assert pids(13, True) == [13, 14]
    assert sum(part.missing for part in log.of(12, False)) == 3
    assert [s.step for part in log.of(12, False) for s in part.steps] == [4]
    with pytest.raises(errors.InvalidArgument, match="process 99 is not in the file"):
        pids(99, True)


def test_kinds_and_keys_of_the_future_are_passed_over():
    text = HEADER.replace("}", ',"host":"h"}') + '{"kind":"dream","x":1}\n' + written(call(1)).splitlines()[1][:-1] + ',"mood":2}\n'

    assert list(read(io.StringIO(text)))[1:] == [call(1)]


def test_a_newer_version_is_refused(tmp_path):
    with pytest.raises(errors.NotSupported, match="version 2, this symphony reads up to 1"):
        load(saved(tmp_path, HEADER.replace('"version":1', '"version":2')))


def test_a_line_that_the_writer_did_not_finish_is_passed_over(tmp_path):
    text = written(call(1), call(2))

    assert [part.records[0].seq for part in load(saved(tmp_path, text[:-5])).parts] == [1]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "no event log"),
        ("{}\n", 1, "no event log"),
        ("hello\n", 1, "no event log"),
        (HEADER.replace("1,", '"one",', 1), 1, "version must be a number"),
        (HEADER + "{\n", 2, "no JSON"),
        (HEADER + "[1]\n", 2, "no record with a kind"),
        (HEADER + '{"kind":"missing","num_calls":1}\n{"kind":"missing"}\n', 3, "a missing without num_calls"),
        (HEADER + '{"kind":"missing","num_calls":"many"}\n', 2, 'num_calls is "many"'),
        (HEADER + '{"kind":"missing","num_calls":true}\n', 2, "num_calls is true"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, line, why):
    path = saved(tmp_path, text)

    with pytest.raises(errors.InvalidArgument, match=why) as bad:
        load(path)

    assert bad.value.values["line"] == line
    assert str(path) in bad.value.message


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(errors.NoSuchFile):
        load(tmp_path / "none")
    with pytest.raises(errors.AccessDenied):
        load(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.InvalidArgument, match="it is no text"):
        load(tmp_path / "bytes")
