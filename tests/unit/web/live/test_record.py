"""Lines of the audit log: an admin's looks now and then, signals always."""

import json
from types import SimpleNamespace

import pytest

from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.audit import Audit, files
from vllm_symphony.errors import AccessDenied, NoSuchProcess, WouldBlock
from vllm_symphony.web.live.record import AGAIN_S, Record

ROOT, ANN = Credentials("root", scopes=("admin",)), Credentials("ann")
REQUEST = SimpleNamespace(client=SimpleNamespace(host="10.0.0.7", port=5000))


class Kept:
    """A record, and what stands in its log."""

    def __init__(self, state_dir, **more) -> None:
        self.state_dir, self.now_s = state_dir, 0.0
        self.audit = Audit(state_dir, **more)
        self.record = Record(self.audit, lambda: self.now_s)

    def of(self, cred: Credentials, action: str, target: str = "7"):
        return self.record.of(REQUEST, cred, action, target)

    def lines(self) -> list[tuple[str, str, str, str]]:
        said = [json.loads(line) for path in files(self.state_dir) for line in path.read_text().splitlines()]
        return [(line["principal"], line["action"], line["target"], line["outcome"]) for line in said]


@pytest.fixture
def kept(tmp_path):
    kept = Kept(tmp_path)
    yield kept
    kept.audit.close()


def test_an_admins_look_is_written_once_a_minute_for_each_thing(kept):
    for target in ("7", "7", "8"):
        with kept.of(ROOT, "why", target):
            pass
    kept.now_s += AGAIN_S
    with kept.of(ROOT, "why", "7"):
        pass

    assert kept.lines() == [("root", "why", t, "begun") for t in ("7", "8", "7")]


def test_who_sees_its_own_only_is_not_written(kept):
    with kept.of(ANN, "strace", "all"):
        pass

    assert kept.lines() == []


def test_a_signal_is_written_with_how_it_ended(kept):
    with kept.of(ANN, "kill"):
        pass
    with pytest.raises(NoSuchProcess), kept.of(ANN, "kill", "8"):
        raise NoSuchProcess("no such process: 8")

    assert kept.lines() == [("ann", "kill", "7", "OK"), ("ann", "kill", "8", "ESRCH")]


def test_what_was_denied_is_written_whatever_it_was(kept):
    with pytest.raises(AccessDenied), kept.of(ANN, "files", "/kb"):
        raise AccessDenied("may not read /kb")

    assert kept.lines() == [("ann", "files", "/kb", "EACCES")]


def test_where_audit_is_required_nothing_is_signalled_unwritten(tmp_path):
    (tmp_path / "audit").write_text("in the way")
    kept = Kept(tmp_path, required=True)
    signalled = []

    with pytest.raises(WouldBlock), kept.of(ANN, "kill"):
        signalled.append(7)

    assert signalled == []
