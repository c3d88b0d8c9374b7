"""Processes of ours beside the kernel's host: what they see of it."""

import json
import os
import socket
import subprocess

import pytest

from vllm_symphony.engine import beside

SAY_ALL = """
import json, os, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
fds = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)]
said = {"words": sys.argv[2:], "environment": dict(os.environ), "fds": sorted(fds), "folder": os.getcwd()}
sock.sendall(json.dumps(said | {"session": os.getsid(0), "group": os.getpgid(0), "path": sys.path}).encode())
"""


@pytest.fixture
def talker(tmp_path):
    """A folder with the module `talker`, which says all that it sees."""
    (tmp_path / "talker.py").write_text(SAY_ALL)
    return {"PYTHONPATH": str(tmp_path), "SECRET": "known"}


def heard(process, ours):
    ours.setblocking(True)
    with ours:
        said = json.loads(ours.recv(1 << 16))
    return said, process.wait(60)


def test_it_has_its_socket_the_log_and_the_variables_that_it_was_given(talker, monkeypatch):
    monkeypatch.setenv("OURS", "hidden")

    said, code = heard(*beside.start_connected("talker", ["a", "b"], socket.SOCK_SEQPACKET, talker))

    assert (code, said["words"], said["folder"]) == (0, ["a", "b"], "/")
    assert said["environment"] == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"} | talker
    assert len(said["fds"]) == 4 and said["fds"][:3] == [0, 1, 2]
    assert "" not in said["path"]


def test_it_is_in_our_session_and_in_a_group_of_its_own(talker):
    process, ours = beside.start_connected("talker", [], socket.SOCK_STREAM, talker)

    said, _ = heard(process, ours)

    assert (said["session"], said["group"]) == (os.getsid(0), process.pid)


def test_our_end_does_not_block(talker):
    process, ours = beside.start_connected("talker", [], socket.SOCK_STREAM, talker)

    assert ours.getblocking() is False

    heard(process, ours)


def test_a_process_that_cannot_be_started_leaves_no_socket(monkeypatch):
    monkeypatch.setattr(beside.sys, "executable", "/no/such/python")

    with pytest.raises(FileNotFoundError):
        beside.start_connected("talker", [], socket.SOCK_STREAM)


def test_what_it_prints_can_be_read(talker):
    with beside.start([beside.sys.executable, "-c", "print(7)"], stdout=subprocess.PIPE) as process:
        assert process.communicate(timeout=60) == (b"7\n", None)
