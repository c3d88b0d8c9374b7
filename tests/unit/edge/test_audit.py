import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_symphony.edge import audit as audit_module
from vllm_symphony.edge.audit import NUM_OLD, OF_A_SOURCE, OF_ALL, Audit, files
from vllm_symphony.edge.token import make
from vllm_symphony.errors import WouldBlock

KILL = {"principal": "ops", "door": "tcp", "action": "kill", "target": "42"}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1760000000.0

    def __call__(self) -> float:
        return self.now_s


def lines(state_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in files(state_dir) for line in path.read_text().splitlines() if line]


def test_a_line_says_who_did_what_to_whom(tmp_path):
    audit = Audit(tmp_path, clock=Clock())

    audit.write(**KILL, outcome="OK", token="4f1c", peer=None, ms=0.8)

    assert lines(tmp_path) == [{"t_s": 1760000000.0, **KILL, "outcome": "OK", "token": "4f1c", "ms": 0.8}]
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    audit.close()


def test_tokens_are_never_written_and_long_words_are_cut(tmp_path):
    audit, (_, text) = Audit(tmp_path), make("ci", "ci", now_s=0.0)

    audit.write(**KILL | {"target": f"/kb/{text}"}, outcome="OK", request_id=text[:40])
    audit.write(**KILL | {"target": "x" * 100_000 + "\n\x00\ud800"}, outcome="OK")

    found = files(tmp_path)[0].read_text()
    assert text[:30] not in found and "(a token)" in found
    assert len(found) < 1000 and len(lines(tmp_path)) == 2
    audit.close()


def test_full_files_are_moved_on_and_the_oldest_goes(tmp_path):
    audit = Audit(tmp_path, max_file_bytes=1000)
    for i in range(200):
        audit.write(**KILL | {"target": str(i)}, outcome="OK")

    found = files(tmp_path)
    assert [p.name for p in found] == [*(f"audit.jsonl.{i}" for i in range(NUM_OLD, 0, -1)), "audit.jsonl"]
    assert all(p.stat().st_size <= 1000 for p in found)
    kept = [int(str(line["target"])) for line in lines(tmp_path)]
    assert kept == list(range(kept[0], 200)) and len(kept) > 50
    audit.close()


def test_many_pens_lose_no_line_and_tear_none(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom vllm_symphony.edge.audit import Audit\n"
        "audit = Audit(Path(sys.argv[1]), max_file_bytes=20_000)\n"
        "for i in range(100):\n"
        "    audit.write(principal=sys.argv[2], door='cli', action='kill', target=str(i), outcome='OK')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), f"p{n}"]) for n in range(2)]
    assert [w.wait(60) for w in writers] == [0] * 2

    found = lines(tmp_path)

    assert sorted((line["principal"], int(str(line["target"]))) for line in found) == [
        (f"p{n}", i) for n in range(2) for i in range(100)
    ]
    assert len(files(tmp_path)) > 1


def test_a_flood_of_one_source_is_bounded_counted_and_hides_nobody(tmp_path):
    clock = Clock()
    audit = Audit(tmp_path, clock=clock)
    for _ in range(1000):
        audit.write(**KILL, outcome="EPERM", bounded="mallory")
    audit.write(**KILL | {"principal": "bob"}, outcome="EPERM", bounded="bob")
    clock.now_s += 1.5
    audit.write(**KILL, outcome="EPERM", bounded="mallory")

    found = lines(tmp_path)

    assert len(found) == OF_A_SOURCE.burst + 2
    assert found[-2]["principal"] == "bob" and found[-1]["unseen"] == 1000 - OF_A_SOURCE.burst == audit.num_unseen
    audit.close()


def test_a_flood_of_many_sources_is_bounded_too(tmp_path):
    audit = Audit(tmp_path, clock=Clock())
    for i in range(5000):
        audit.write(**KILL, outcome="UNAUTHENTICATED", bounded=f"10.0.{i >> 8}.{i & 255}")
    audit.write(**KILL, outcome="OK")

    assert len(lines(tmp_path)) == OF_ALL.burst + 1
    assert len(audit._unseen) <= 1024
    audit.close()


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that takes half of a line, and then takes all again."""
    state = {"is_full": True, "took_half": False}

    def write(fd: int, data: bytes) -> int:
        if not state["is_full"]:
            return os_write(fd, data)
        if state["took_half"]:
            raise OSError(28, "No space left on device")
        state["took_half"] = True
        return os_write(fd, data[: len(data) // 2])

    os_write = os.write
    monkeypatch.setattr(audit_module.os, "write", write)
    return state


def test_on_a_full_disk_serving_goes_on_it_is_told_once_and_later_lines_are_whole(tmp_path, full_disk, caplog):
    audit = Audit(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert audit.write(**KILL, outcome="OK") is False
        audit.demand(**KILL)
        full_disk["is_full"] = False
        assert audit.write(**KILL | {"target": "43"}, outcome="OK")

    said = [r.message for r in caplog.records]
    assert len(said) == 2 and "cannot be written" in said[0] and "3 lines are missing" in said[1]
    assert (audit.num_lines, audit.num_lost) == (1, 3)
    assert json.loads(files(tmp_path)[0].read_text().splitlines()[-1])["target"] == "43"
    audit.close()


def test_where_audit_is_required_what_cannot_be_recorded_is_refused(tmp_path, full_disk):
    audit = Audit(tmp_path, required=True)

    with pytest.raises(WouldBlock, match="does nothing that it cannot record"):
        audit.demand(**KILL)
    full_disk["is_full"] = False
    audit.demand(**KILL)

    assert files(tmp_path)[0].read_text().count('"begun"') == 1
    with pytest.raises(WouldBlock):
        Audit(None, required=True).demand(**KILL)
    audit.close()


def test_a_file_that_was_taken_away_is_made_again_and_a_link_is_not_followed(tmp_path):
    audit = Audit(tmp_path)
    audit.write(**KILL, outcome="OK")
    files(tmp_path)[0].unlink()

    audit.write(**KILL | {"target": "43"}, outcome="OK")
    assert [line["target"] for line in lines(tmp_path)] == ["43"]

    files(tmp_path)[0].unlink()
    (tmp_path / "audit" / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    assert audit.write(**KILL, outcome="OK") is False
    assert not (tmp_path / "elsewhere").exists()
    audit.close()
