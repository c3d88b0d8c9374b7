"""Clients of this version and of the one before get from today's server what they were promised (tests/abi/golden)."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.abi.record import server
from tests.abi.transcript import VARYING, bytes_of, decoded, differences, read, replay
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR

GOLDEN = Path(__file__).parent / "golden"
SERVED = [f"{ABI_MAJOR}.{minor}" for minor in (ABI_MINOR - 1, ABI_MINOR)]
NEW_IN = {
    "1.1": {"keep_alive", "why"},
    "1.2": {
        "advise", "chattr", "chmod", "chown", "concat", "du", "export", "extract", "find", "flock", "fsck", "gc", "getquota",
        "getxattr", "import", "listdir", "listxattr", "mkdir", "pin", "removexattr", "rmdir", "setquota", "setxattr", "statfs",
        "sync", "umask", "watch",
    },
    "1.3": {
        "call_tool", "channel_close", "channel_open", "channel_unlink", "channels", "feed", "getrlimit", "getrusage", "inherited",
        "install", "poll", "program", "programs", "recv", "request", "respond", "send", "setrlimit", "tools", "uninstall",
    },
    "1.4": {"metrics"},
    "1.5": {"getsched", "setsched", "setweight"},
}  # fmt: skip


def calls_in(version: str) -> set[str]:
    sent = [bytes_of(line["send"]) for line in read(GOLDEN / f"{version}.jsonl") if "send" in line]
    return {op for op in CALLS for frame in sent if msgspec.msgpack.encode("op") + msgspec.msgpack.encode(op) in frame}


@pytest.mark.parametrize("version", SERVED)
def test_a_client_of_this_version_is_served_as_it_was(version, tmp_path):
    with server(str(tmp_path / "s")):
        assert list(replay(read(GOLDEN / f"{version}.jsonl"), str(tmp_path / "s"))) == []


def test_there_is_a_transcript_of_each_version_that_is_served():
    assert {path.stem for path in GOLDEN.glob("*.jsonl")} >= set(SERVED)


@pytest.mark.parametrize("version", SERVED)
def test_a_transcripts_clients_say_its_version(version):
    sent = [bytes_of(line["send"]) for line in read(GOLDEN / f"{version}.jsonl") if "send" in line]
    calls = [msgspec.msgpack.decode(frame[4:]) for frame in sent if b"hello" in frame]
    said = {f"{call['a']['abi_major']}.{call['a']['abi_minor']}" for call in calls if call["op"] == "hello"}

    assert said - {f"{ABI_MAJOR + 8}.0"} == {version}  # but for one whom the server refuses


@pytest.mark.parametrize("version", SERVED)
def test_a_transcript_has_every_call_of_its_version(version):
    newer = {op for later, ops in NEW_IN.items() for op in ops if later > version}

    assert calls_in(version) == set(CALLS) - newer


def test_a_transcript_has_the_errors_the_streams_and_the_sessions_frames():
    got = {
        version: [decoded(bytes_of(line["get"])) for line in read(GOLDEN / f"{version}.jsonl") if "get" in line]
        for version in ("1.1", "1.2", "1.3", *SERVED)
    }
    reasons = {version: {answer["err"]["reason"] for answer in answers if "err" in answer} for version, answers in got.items()}

    any_client = {"EINVAL", "ENOSYS", "ENOENT", "EBADF", "ESTALE", "EFBIG", "ECHILD", "EINTR", "ETIMEDOUT", "EPERM"}
    assert reasons["1.1"] >= any_client | {"ENOTSUP", "EPIPE", "ESRCH"}
    assert reasons["1.2"] >= reasons["1.1"] | {"EEXIST", "ENOTDIR", "EISDIR", "ENOTEMPTY", "EROFS", "ENODATA", "EAGAIN", "EBUSY"}
    assert reasons["1.3"] >= reasons["1.2"] | {"EACCES"}
    assert reasons["1.5"] >= reasons["1.4"] >= reasons["1.3"]
    assert all(any("part" in answer for answer in answers) for answers in got.values())
    assert [answer["seq"] for answer in got["1.1"] if answer.get("seq")][:5] == [1, 2, 3, 4, 4]  # number 4 came twice
    assert any(line.get("chunked") for line in read(GOLDEN / "1.1.jsonl"))


def changed(line: dict, change) -> dict:
    answer = decoded(bytes_of(line["get"]))
    change(answer)
    return line | {"get": msgspec.msgpack.encode(answer).hex()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a["ok"].update(pid=99), "2.ok.pid is 1, was 99"),
        (lambda a: a["ok"].update(parent=1), "2.ok.parent is gone"),
        (lambda a: a["ok"].update(pid="1"), "2.ok.pid is 1, was '1'"),
        (lambda a: a.update(err={"reason": "EPERM"}) or a.pop("ok"), "2.err is None"),
        (lambda a: a.update(seq=4), "2.seq is None, was 4"),
    ],
)
def test_a_difference_is_seen(change, said, tmp_path):
    hello, answer, ask, pid = _first_call()

    with server(str(tmp_path / "s")):
        found = list(replay([hello, answer, ask, changed(pid, change), {"on": 1, "cut": True}], str(tmp_path / "s")))

    assert found and said in found[0]


def _first_call() -> list[dict]:
    """A hello and a getpid, with their answers."""
    frames = [
        {"id": 1, "op": "hello", "a": {"abi_major": ABI_MAJOR, "abi_minor": ABI_MINOR}},
        {"id": 1, "ok": {"abi_major": ABI_MAJOR, "pid": 1}},
        {"id": 2, "op": "getpid"},
        {"id": 2, "ok": {"pid": 1}},
    ]
    bodies = [msgspec.msgpack.encode(frame) for frame in frames]
    return [
        {"on": 1, "get": body.hex()} if i % 2 else {"on": 1, "send": (len(body).to_bytes(4, "little") + body).hex()}
        for i, body in enumerate(bodies)
    ]


def test_what_was_added_since_is_no_difference_and_what_varies_is_looked_at_only_by_type():
    then = {"length": 1, "message": "no such file", "t_ns": 5}

    assert list(differences(then, {"length": 1, "message": "nothing there", "t_ns": 9, "new": True}, "ok")) == []
    assert list(differences(then, {"length": 1, "message": 3, "t_ns": 9}, "ok")) == ["ok.message is 3, was a str"]
    assert {"message", "t_ns"} <= VARYING


def test_the_files_are_lines_of_json():
    for path in GOLDEN.glob("*.jsonl"):
        assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
