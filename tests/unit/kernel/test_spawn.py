"""What a program is started with: code, files, standard input, its place in the tree."""

import json
from typing import Any

import pytest

from tests.unit.kernel.world import ADMIN, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import ExitStatus, OpenFlags, Pid
from vllm_symphony.kernel.effect import FeedInput, Launch

MODULE = b"\0asm\1\0\0\0"


def stat(w: World, pid: int) -> Any:
    return w("ps", pid=pid).processes[0]


def test_a_module_runs_in_wasm_and_spawns_itself(w: World) -> None:
    pid = w.program(source=None, code=MODULE)
    w("spawn", by=pid)

    launches = [(launch.source, launch.code, launch.runtime) for launch in w.sent(Launch)]

    assert launches == [("", MODULE, "wasm")] * 2
    assert stat(w, pid).runtime == "wasm"


def test_what_is_no_module_is_refused(w: World) -> None:
    with pytest.raises(errors.BadProgram, match="no WebAssembly module"):
        w("spawn", code=b"\x7fELF")
    with pytest.raises(errors.BadProgram, match="the most is"):
        w("spawn", code=MODULE + bytes(w.kernel.limits.program_bytes))
    with pytest.raises(errors.InvalidArgument):
        w("spawn", source="x", code=MODULE)


def test_only_who_the_operator_trusts_runs_in_the_servers_process(w: World) -> None:
    with pytest.raises(errors.NotOwner, match="not trusted here"):
        w("spawn", source="x", runtime="trusted")

    w.kernel.may_trust = lambda who: who == "me"

    assert stat(w, w("spawn", source="x", runtime="trusted").pid).runtime == "trusted"


def test_a_confined_program_of_a_trusted_principal_starts_none_in_the_servers_process(w: World) -> None:
    w.kernel.may_trust = lambda who: who == "me"
    confined, trusted = w.program(), w.program(runtime="trusted")

    with pytest.raises(errors.NotOwner, match="what a confined program starts is not trusted here"):
        w("spawn", by=confined, source="x", runtime="trusted")

    assert stat(w, w("spawn", by=trusted, source="x", runtime="trusted").pid).runtime == "trusted"


def test_a_child_gets_the_files_that_it_is_given_with_the_same_rights(w: World) -> None:
    w("open", path="/book", flags=int(OpenFlags.CREAT), tokens=[1, 2, 3])
    book, notes = w("open", path="/book").fd, w.file([9])
    pid = w.program(fds={"book": book, "notes": notes})

    fds = w("inherited", by=pid).fds

    assert w.tokens(fds["book"], by=pid) == [1, 2, 3]
    assert w("append", by=pid, fd=fds["notes"], tokens=[8]).length == 2
    with pytest.raises(errors.BadFile):
        w("append", by=pid, fd=fds["book"], tokens=[4])
    w("close", fd=notes)
    assert w.tokens(fds["notes"], by=pid) == [9, 8], "it is the child's own"
    w("close", by=pid, fd=fds["notes"])
    assert w("inherited", by=pid).fds.keys() == {"book"}
    w("unlink", path="/book")


def test_files_that_are_not_open_are_not_given_and_nothing_starts(w: World) -> None:
    with pytest.raises(errors.BadFile):
        w("spawn", source="x", fds={"book": 99})
    with pytest.raises(errors.InvalidArgument):
        w("spawn", source="x", fds={"": w.file()})

    assert not w.sent(Launch)


def test_the_session_is_the_top_of_the_tree(w: World) -> None:
    parent = w.program()
    child = w.program(parent=parent)
    edge = w.kernel.connect(ADMIN, "edge", 0)
    alone = w.result(w.start("spawn", by=edge, source="x"), edge).pid

    assert (stat(w, parent).session, stat(w, child).session) == (w.pid, w.pid)
    assert w("ps", by=edge, pid=alone).processes[0].session == alone


def test_status_shows_where_a_program_stands(w: World) -> None:
    pid = w.program()
    w.kernel.used(Pid(pid), 0.1, 12345, w.now_ns)

    text = json.loads(w("read", path=f"/proc/{pid}/status").text)

    assert (text["session"], text["runtime"], text["memory_bytes"], text["program"]) == (w.pid, "python", 12345, "")


def test_input_is_fed_as_far_as_there_is_room(w: World) -> None:
    pid = w.program(stdin=True)
    w.kernel.input_bytes = lambda _: 10
    assert w.sent(Launch)[-1].stdin

    w("feed", pid=pid, data=b"a line\n")
    w("feed", pid=pid, eof=True)

    assert w.sent(FeedInput) == [FeedInput(Pid(pid), b"a line\n", False), FeedInput(Pid(pid), b"", True)]
    with pytest.raises(errors.WouldBlock):
        w("feed", pid=pid, data=bytes(w.kernel.limits.input_bytes))
    with pytest.raises(errors.InvalidArgument):
        w("feed", pid=pid, data=bytes(w.kernel.limits.input_bytes + 1))


def test_input_of_a_program_that_has_none_is_a_broken_pipe(w: World) -> None:
    without, closed, ended = w.program(), w.program(stdin=True), w.program(stdin=True)
    w.exited(ended)

    for pid, why in ((without, "was started without one"), (closed, "has closed it"), (ended, "has ended")):
        with pytest.raises(errors.BrokenPipe, match=why):
            w("feed", pid=pid, data=b"x")
    with pytest.raises(errors.NoSuchProcess):
        w("feed", by=w.kernel.connect(OTHER, "client", 0), pid=closed)


@pytest.mark.parametrize(("code", "reason"), [(137, "limit"), (159, "denied")])
def test_the_host_says_why_a_program_was_ended(w: World, code: int, reason: str) -> None:
    pid = w.program()

    w.exited(pid, code, error="out of memory", reason=reason)

    assert stat(w, pid).exit == ExitStatus(code, reason, error="out of memory")


def test_a_program_does_not_name_the_hosts_reasons_itself(w: World) -> None:
    pid = w.program()

    for reason in ("limit", "denied", "lease"):
        with pytest.raises(errors.InvalidArgument):
            w("exit", by=pid, code=1, reason=reason)
