"""One run: the same operations on the model and on the real thing, compared after each (tests/model/kvfs/driver.py).

    Op(7, "ann", "append", {"fd": 3, "tokens": [65]})      fd: the number of the operation that opened it

An operation means the same whatever stood before it, so a run that failed is shrunk by leaving operations out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.model.kvfs.computing import Work
from tests.model.kvfs.keeping import Later
from tests.model.kvfs.locking import Wait
from tests.model.kvfs.model import ADMIN, LIMITS, MAX_POSITIONS, PAGE_SIZE, PRINCIPALS, Model
from tests.model.kvfs.rig import NO_REPLY, Rig
from tests.model.kvfs.tree import File, Folder, Process, Refused, below
from tests.model.kvfs.watching import Watcher
from vllm_symphony.abi.types import Credentials, unpack_tokens
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel import effect as e

NO_FD = 9999
PATIENCE = 30_000  # steps: files become stale within them (engine/room.py)
LEASE_S = 20.0


@dataclass(frozen=True)
class Op:
    """`wait`: let the device work until it is done. `after_s`: the time that passes before."""

    number: int
    who: str
    name: str
    args: dict[str, Any]
    wait: bool = True
    after_s: float = 0.0


@dataclass(frozen=True)
class Actor:
    """Who calls: through `process`; through the edge as `principal`; through the edge for a session."""

    process: str
    principal: str
    session: str = ""


ACTORS = {
    **{name: Actor(name, name) for name in PRINCIPALS},
    "ann-session": Actor("ann-session", "ann"),
    "bob-session": Actor("bob-session", "bob"),
    **{f"edge-{name}": Actor("edge", name) for name in PRINCIPALS},
    "edge-session": Actor("edge", "ann", "ann-session"),
}


@dataclass
class Call:
    """In flight: who waits for it, and for what."""

    pid: int
    call: int
    op: Op
    process: Process
    what: Any  # the model's Work, Wait or Watcher


class Run:
    def __init__(self, num_pages: int) -> None:
        self.rig = Rig(LIMITS, num_pages, PAGE_SIZE, MAX_POSITIONS)
        self.model = Model(num_pages)
        self.model.learn_pages = self._learn_pages  # type: ignore[method-assign]
        self.model.on_device = lambda file: self.rig.core.residency(file.ino).device_pages
        self.processes: dict[str, Process] = {}
        self.labels: dict[int, tuple[Process, int]] = {}  # number of the operation -> whose fd
        self.calls: dict[int, Call] = {}  # by call id
        for name in (*PRINCIPALS, "ann-session", "bob-session", "edge"):
            self._connect(name)

    # ---- one operation

    def do(self, op: Op) -> None:
        """Raises AssertionError where the two differ."""
        self.rig.pass_time(self.rig.now + 1000 + int(op.after_s * 1e9), self._catch_up)
        own = getattr(self, f"_op_{op.name}", None)
        if own is not None:
            own(op)
        else:
            self._call(op)
        self._catch_up()
        self.model.forget_unkept()
        self._compare_watches()
        self.rig.kernel.check()

    def _call(self, op: Op) -> None:
        actor = ACTORS[op.who]
        door = self.processes[actor.process]
        process = self.processes[actor.session] if actor.session else door
        cred = PRINCIPALS[actor.principal]
        args = self._with_fds(op.args)
        rig = self.rig
        call = rig.call(door.pid, op.name, args, cred if door.kind == "edge" else None, process.pid if actor.session else 0)
        expected = self._ask_model(op, process, cred, args)
        if isinstance(expected, Later):
            self._compare_later(op, process, expected, door.pid, call)
        elif isinstance(expected, Work | Wait | Watcher):
            self.calls[call] = Call(door.pid, call, op, process, expected)
            if isinstance(expected, Work):
                self._began(expected)
                for _ in range(PATIENCE if op.wait else 0):
                    if call not in self.calls:
                        break
                    self._step()
                assert not op.wait or call not in self.calls, f"{op} never ends"
        else:
            assert rig.started == [], f"wanted {expected}, got {rig.started}"
            self._compare(op, process, expected, rig.reply(door.pid, call))
        if actor.session:
            self.model.touched(process)

    def _began(self, work: Work) -> None:
        """The kernel must have sent the job by now."""
        assert len(self.rig.started) == 1, f"{len(self.rig.started)} jobs began instead of {work.op}: {self.rig.replies}"
        job = self.rig.started[0]
        self.model.works[job.job] = work
        work.file.ino = job.dst if work.op == "edit" else job.ino

    def _with_fds(self, args: dict[str, Any]) -> dict[str, Any]:
        """Numbers of operations become fds."""
        given = dict(args)
        if args.get("fd") is not None:
            given["fd"] = self._fd(args["fd"])
        if "fds" in args:
            given["fds"] = tuple(self._fd(label) for label in args["fds"])
        return given

    def _fd(self, label: int) -> int:
        return self.labels[label][1] if label in self.labels else NO_FD

    def labels_of(self, process: Process) -> dict[int, int]:
        """fd of the process -> number of the operation that opened it."""
        return {fd: number for number, (other, fd) in self.labels.items() if other is process}

    def _compare_later(self, op: Op, process: Process, later: Later, pid: int, call: int) -> None:
        """Let the device work until the answer is there."""
        for _ in range(PATIENCE):
            actual = self.rig.reply(pid, call)
            if actual is not NO_REPLY:
                break
            self._step()
        if isinstance(actual, SymphonyError) and actual.reason in later.may_fail:
            return
        assert actual is not NO_REPLY and not isinstance(actual, SymphonyError), f"wanted ok, got {actual}"
        self._compare(op, process, later.result(actual), actual)

    def _ask_model(self, op: Op, process: Process, cred: Credentials, args: dict[str, Any]) -> Any:
        try:
            if process.ended:
                raise Refused("ESRCH")
            return getattr(self.model, "import_" if op.name == "import" else op.name)(process, cred, **args)
        except Refused as refused:
            return refused

    def _compare(self, op: Op, process: Process, expected: Any, actual: Any) -> None:
        assert actual is not NO_REPLY, f"{op} is not answered; wanted {expected}"
        wanted = expected.reason if isinstance(expected, Refused) else "ok"
        got = actual.reason if isinstance(actual, SymphonyError) else "ok"
        assert wanted == got, f"wanted {wanted}, got {got}: {actual}"
        if got == "ok" and expected is not None:
            agree(expected, actual)
            if "fd" in expected:
                self.labels[op.number] = (process, expected["fd"])
                process.fds[expected["fd"]].file.ino = actual.ino

    # ---- what is no call

    def _op_step(self, op: Op) -> None:
        self._step()

    def _op_pass_time(self, op: Op) -> None:
        """All is in `after_s`."""

    def _op_cancel(self, op: Op) -> None:
        """Of the call that operation `target` made."""
        for call in self.calls.values():
            if call.op.number == op.args["target"]:
                cred = PRINCIPALS[ACTORS[call.op.who].principal]
                asked = self.rig.call(call.pid, "cancel", {"target": call.call}, cred)
                self.rig.reply(call.pid, asked)
                self.model.cancel(call.what)
                return

    def _op_repack(self, op: Op) -> None:
        """Export a file and import it under another name."""
        self.model.packed = ("", [], "", {})
        self._call(Op(op.number, op.who, "export", {"path": op.args["path"], "pages": op.args["pages"]}))
        if self.model.packed[0]:
            self._call(Op(op.number, op.who, "import", {"path": op.args["to"], "spool": self.model.packed[0]}))

    def _op_disconnect(self, op: Op) -> None:
        process = self.processes[op.who]
        if process.connected and not process.ended:
            self.rig.kernel.disconnected(process.pid, self.rig.now)
            self.rig.carry_out()
            if process.kind == "session":
                self.model.suspend(process)
            else:
                self.model.end(process)

    def _op_connect(self, op: Op) -> None:
        """Again; a session that is still there is resumed."""
        process = self.processes[op.who]
        if process.ended:
            self._connect(op.who)
        elif not process.connected:
            self.rig.kernel.resume(process.pid, process.cred)
            self.model.resume(process)

    def _op_restart(self, op: Op) -> None:
        """When nothing is in flight, as after a crash or a clean stop; everybody connects again."""
        for call in self.calls.values():
            if isinstance(call.what, Work):
                self.model.cancel(call.what)
                self.rig.call(call.pid, "cancel", {"target": call.call}, PRINCIPALS[ACTORS[call.op.who].principal])
        for _ in range(PATIENCE):
            if not self.model.works:
                break
            self._step()
        assert not self.model.works
        self.rig.switch_off(op.args["crash"])
        self._catch_up()
        self.rig.switch_on()
        self.rig.replies.clear()
        self.model.restart(op.args["crash"])
        self.calls.clear()
        self.labels.clear()
        for name in self.processes:
            self._connect(name)
        self._compare_trees()

    def _learn_pages(self, file: File) -> None:
        """After a restart or a rebuild: what is computed is the kernel's word, within what can be."""
        inode = self.rig.kernel.files.inodes[file.ino]
        if not file.saved and file.frontier:
            assert inode.frontier in (0, file.length - 1, file.length), (inode.frontier, file)
        assert inode.frontier <= file.length
        self.model.have_pages(file, inode.frontier)

    def _compare_trees(self) -> None:
        """All that there is, in both."""
        root = PRINCIPALS["root"]
        process = self.processes["root"]
        call = self.rig.call(process.pid, "listdir", {"recursive": True}, None)
        listed = self.rig.reply(process.pid, call)
        then = {stat.path: stat.modified_ns for stat in listed.files}
        call = self.rig.call(process.pid, "stat", {"path": "/"}, None)
        then["/"] = self.rig.reply(process.pid, call).file.modified_ns
        for path, node in (("/", self.model.root), *below(self.model.root, "")):
            if isinstance(node, Folder):  # when a name came or went is not recorded of the directory itself
                assert node.created <= then.get(path, node.modified) <= node.modified
                node.modified = then.get(path, node.modified)
        agree(self.model.listdir(process, root, recursive=True), listed)
        for path, node in below(self.model.root, ""):
            call = self.rig.call(process.pid, "listxattr", {"path": path}, None)
            assert self.rig.reply(process.pid, call).attributes == node.xattrs
            if isinstance(node, File):
                call = self.rig.call(process.pid, "read", {"path": path}, None)
                agree(self.model.read(process, root, path=path), self.rig.reply(process.pid, call))

    def _connect(self, name: str) -> None:
        kind = "edge" if name == "edge" else "session" if "-" in name else "client"
        cred = ADMIN if kind == "edge" else PRINCIPALS[name.partition("-")[0]]
        lease_s = LEASE_S if kind == "session" else 0.0
        pid = self.rig.connect(cred, "edge" if kind == "edge" else "client", lease_s)
        self.processes[name] = self.model.connect(pid, kind, cred, lease_s)

    # ---- the device and the clock

    def _step(self) -> None:
        for completion in self.rig.step(self._catch_up):
            expected, call = self._completed(completion)
            self.rig.complete(completion)
            if call is not None:
                del self.calls[call.call]
                self._compare(call.op, call.process, expected, self.rig.reply(call.pid, call.call))
            self._catch_up()

    def _completed(self, completion: Any) -> tuple[Any, Call | None]:
        """What the model makes of it, and the call that must be answered now."""
        model, job = self.model, completion.job
        if job not in model.works:
            return None, None
        work = model.works[job]
        if isinstance(completion, e.GenerateTokens):
            model.drew(work, completion.tokens)
            return None, None
        if isinstance(completion, e.JobFailed):
            expected: Any = Refused(model.failed(job, completion.error.reason))
        else:
            try:
                expected = model.done(job)
            except Refused as refused:
                expected = refused
        call = next(call for call in self.calls.values() if call.what is work)
        if work.process.ended:
            del self.calls[call.call]
            return expected, None
        return expected, call

    def _catch_up(self) -> None:
        """The model lets its alarms ring and its locks be given; who waited must have been answered."""
        self.model.advance(self.rig.now)
        self.model.grant()
        answers, self.model.answers = self.model.answers, []
        for what, expected in answers:
            call = next(call for call in self.calls.values() if call.what is what)
            del self.calls[call.call]
            if not call.process.ended:
                self._compare(call.op, call.process, expected, self.rig.reply(call.pid, call.call))

    def _compare_watches(self) -> None:
        """Watchers were told what the model would have told them, whatever the order within one operation."""
        for call in self.calls.values():
            watcher = call.what
            if isinstance(watcher, Watcher):
                events = [event for part in self.rig.parts.pop((call.pid, call.call), ()) for event in part.events]
                told = [(event.kind, event.path, event.new_path, event.detail) for event in events if event.kind != "modify"]
                assert sorted(told) == sorted(watcher.told), f"told {told} instead of {watcher.told}"
                modified = {event.ino for event in events if event.kind == "modify"}
                assert modified == watcher.modified, f"told of {modified} instead of {watcher.modified}"
                watcher.told, watcher.modified = [], set()

    def close(self) -> None:
        """Everything ends; what stays is what has a name."""
        for name in self.processes:
            self._op_disconnect(Op(0, name, "disconnect", {}))
            self._catch_up()
        self.rig.pass_time(self.rig.now + int(2 * LEASE_S * 1e9), self._catch_up)
        while self.model.works:
            self._step()
        self.rig.kernel.check()
        self.rig.check()
        assert self.rig.kernel.idle(), self.rig.kernel.counters()
        assert len(self.rig.kernel.files.inodes) == len(self.model.files())
        assert not self.rig.replies, self.rig.replies
        self.rig.switch_off(crash=False)


def agree(expected: dict[str, Any], actual: Any) -> None:
    """Each thing that the model speaks of is so."""
    for key, wanted in expected.items():
        if key == "top":
            wanted, got = [wanted], unpack_tokens(actual.distributions[0].ids)[:1]
        elif key == "has_text":
            got = bool(actual.text)
        else:
            got = getattr(actual, key)
        if isinstance(got, bytes):
            got = unpack_tokens(got)
        if isinstance(wanted, dict) and key != "attributes":
            agree(wanted, got)
        elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
            assert len(wanted) == len(got), f"{key}: wanted {[one['path'] for one in wanted]}, got {[one.path for one in got]}"
            for one, other in zip(wanted, got, strict=True):
                agree(one, other)
        elif key == "modified_ns":
            assert wanted <= got <= wanted + 100, (
                f"{key}: wanted {wanted}, got {got} ({actual})"
            )  # no two states of a file have one
        elif isinstance(wanted, tuple):
            assert wanted[0] - 1e-6 <= got <= wanted[1] + 1e-6, f"{key}: wanted {wanted[0]} to {wanted[1]}, got {got} ({actual})"
        elif isinstance(wanted, set):
            assert got in wanted, f"{key}: wanted one of {wanted}, got {got}"
        elif isinstance(wanted, float):
            assert abs(wanted - got) < 1e-6, f"{key}: wanted {wanted}, got {got} ({actual})"
        else:
            assert wanted == (list(got) if isinstance(wanted, list) else got), f"{key}: wanted {wanted}, got {got} ({actual})"
