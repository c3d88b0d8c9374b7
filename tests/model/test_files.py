"""Files against a dict model: any sequence of calls, in any order with the device's work, gives what the model says.

The model is names -> file, fd -> (file, writable), file -> [(token, position)]; a busy file has one writer. Each rule says which
errno it expects, so a call that should fail and does not is found too. After every step: the kernel's invariants, the device's copy
of each file (built from effects alone), and all that can be read.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from tests.unit.kernel.world import World
from vllm_symphony.abi.types import OpenFlags, unpack_tokens
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import GenerateJob

RDWR, CREAT, EXCL, TRUNC = (int(f) for f in (OpenFlags.RDWR, OpenFlags.CREAT, OpenFlags.EXCL, OpenFlags.TRUNC))
LIMIT = 64
paths = st.sampled_from(["/a", "/b", "/c"])
tokens = st.lists(st.integers(0, 99), max_size=12)
pick = st.integers(0, 1 << 20)


@dataclass(eq=False)
class File:
    """What the model knows of a file; `writer` and `readers` are calls in flight."""

    entries: list[tuple[int, int]] = field(default_factory=list)
    writer: "Work | None" = None
    readers: int = 0
    longest: int = 0  # it was when it was cut

    @property
    def following(self) -> int:
        return self.entries[-1][1] + 1 if self.entries else 0

    @property
    def busy(self) -> bool:
        return self.writer is not None or self.readers > 0

    def add(self, new: list[int], start: int) -> None:
        self.entries += [(token, start + i) for i, token in enumerate(new)]

    def cut(self, length: int) -> None:
        if length < len(self.entries):
            self.longest = max(self.longest, len(self.entries))
            del self.entries[length:]


@dataclass(eq=False)
class Work:
    """A device call in flight. `adds`: (tokens, start) at its end."""

    call: int
    fd: int
    file: File
    adds: tuple[list[int], int] | None = None
    cancelled: bool = False

    @property
    def only_looks(self) -> bool:
        """A forward without tokens."""
        return self.adds is not None and not self.adds[0]


class Files(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w = World()
        self.names: dict[str, File] = {}
        self.fds: dict[int, tuple[File, bool]] = {}
        self.works: dict[int, Work] = {}  # by job

    def outcome(self, op: str, **args: object) -> tuple[str, object]:
        try:
            return "", self.w(op, **args)
        except SymphonyError as e:
            return e.reason, e

    def expect(self, wanted: str, op: str, **args: object) -> object:
        got, result = self.outcome(op, **args)
        assert got == wanted, f"{op} {args}: wanted {wanted or 'ok'}, got {got or 'ok'}: {result}"
        return result

    def choose(self, n: int) -> int:
        return sorted(self.fds)[n % len(self.fds)] if self.fds else 99

    @rule(path=paths, new=st.none() | tokens, flags=st.integers(0, 15))
    def open_named(self, path: str, new: list[int] | None, flags: int) -> None:
        file = self.names.get(path)
        if (flags & EXCL and not flags & CREAT) or (flags & TRUNC and not flags & RDWR):
            wanted = "EINVAL"
        elif file is None:
            wanted = "" if flags & CREAT else "ENOENT" if new is None else "EINVAL"
        elif flags & CREAT and (flags & EXCL or new is not None):
            wanted = "EEXIST"
        elif new is not None:
            wanted = "EINVAL"
        else:
            wanted = "EBUSY" if flags & TRUNC and file.busy else ""
        result = self.expect(wanted, "open", path=path, tokens=new, flags=flags)
        if wanted:
            return
        if file is None:
            file = self.names[path] = File()
            file.add(new or [], 0)
        elif flags & TRUNC:
            file.cut(0)
        self.fds[result.fd] = (file, bool(flags & RDWR))
        assert result.length == len(file.entries)

    @rule(new=tokens)
    def open_anonymous(self, new: list[int]) -> None:
        file = File()
        file.add(new, 0)
        self.fds[self.expect("", "open", tokens=new).fd] = (file, True)

    @rule(n=pick)
    def close(self, n: int) -> None:
        fd = self.choose(n)
        self.expect("" if fd in self.fds else "EBADF", "close", fd=fd)
        self.fds.pop(fd, None)
        for work in self.works.values():
            work.cancelled |= work.fd == fd

    @rule(n=pick)
    def dup(self, n: int) -> None:
        fd = self.choose(n)
        result = self.expect("" if fd in self.fds else "EBADF", "dup", fd=fd)
        if fd in self.fds:
            self.fds[result.fd] = self.fds[fd]

    @rule(n=pick)
    def fork(self, n: int) -> None:
        fd = self.choose(n)
        result = self.expect("" if fd in self.fds else "EBADF", "fork", fd=fd)
        if fd in self.fds:
            self.fds[result.fd] = (File(list(self.fds[fd][0].entries)), True)

    @rule(n=pick, new=tokens, gap=st.integers(-2, 5), at=st.sampled_from([None, None, 0]))
    def append(self, n: int, new: list[int], gap: int, at: int | None) -> None:
        fd = self.choose(n)
        file, wanted, start = self._write(fd, new, gap, at)
        if not wanted and file.busy:
            wanted = "EBUSY"
        self.expect(wanted, "append", fd=fd, tokens=new, start=start, at=at)
        if not wanted:
            file.add(new, start)

    def _write(self, fd: int, new: list[int], gap: int, at: int | None) -> tuple[File, str, int]:
        if fd not in self.fds or not self.fds[fd][1]:
            return File(), "EBADF", 0
        file = self.fds[fd][0]
        start = file.following + gap
        if at is not None and at != len(file.entries):
            return file, "ESTALE", start
        if gap < 0:
            return file, "EINVAL", start
        return file, "EFBIG" if start + len(new) > LIMIT else "", start

    @rule(n=pick, length=st.integers(-1, 20))
    def truncate(self, n: int, length: int) -> None:
        fd = self.choose(n)
        file, writable = self.fds.get(fd, (File(), False))
        if not writable:
            wanted = "EBADF"
        elif not 0 <= length <= len(file.entries):
            wanted = "EINVAL"
        else:
            wanted = "EBUSY" if file.busy else ""
        self.expect(wanted, "truncate", fd=fd, length=length)
        if not wanted:
            file.cut(length)

    @rule(n=pick, path=paths)
    def link(self, n: int, path: str) -> None:
        fd = self.choose(n)
        wanted = "EBADF" if fd not in self.fds else "EEXIST" if path in self.names else ""
        self.expect(wanted, "link", fd=fd, path=path)
        if not wanted:
            self.names[path] = self.fds[fd][0]

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.expect("" if path in self.names else "ENOENT", "unlink", path=path)
        self.names.pop(path, None)

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        self.expect("" if old in self.names else "ENOENT", "rename", old=old, new=new)
        if old in self.names and self.names.get(new) is not self.names[old]:
            self.names[new] = self.names.pop(old)

    @rule(n=pick, new=tokens, gap=st.integers(-1, 3), at=st.sampled_from([None, None, 0]))
    def forward(self, n: int, new: list[int], gap: int, at: int | None) -> None:
        fd = self.choose(n)
        file, wanted, start = self._write(fd, new, gap, at)
        if not new and fd in self.fds and not self.fds[fd][1]:  # allowed on a read-only fd
            file = self.fds[fd][0]
            start = file.following + gap
            wanted = "ESTALE" if at not in (None, len(file.entries)) else "EINVAL" if gap < 0 else "EFBIG" if start > LIMIT else ""
        if wanted in ("", "EFBIG") and not new and not file.entries:
            wanted = "EINVAL"
        if not wanted and file.writer is not None:
            if not new and file.writer.only_looks:  # another look: on a fork of its own
                self._start("", "forward", File(), fd, None, writes=False, tokens=new, start=start, at=at)
                return
            wanted = "EBUSY"
        self._start(wanted, "forward", file, fd, (new, start), tokens=new, start=start, at=at)

    @rule(n=pick)
    def generate(self, n: int) -> None:
        fd = self.choose(n)
        file, writable = self.fds.get(fd, (File(), False))
        if not writable:
            wanted = "EBADF"
        elif not file.entries:
            wanted = "EINVAL"
        elif file.following >= LIMIT:
            wanted = "EFBIG"
        else:
            wanted = "EBUSY" if file.writer is not None else ""
        self._start(wanted, "generate", file, fd, None)

    @rule(n=pick, position=st.integers(-1, 10))
    def sample(self, n: int, position: int) -> None:
        fd = self.choose(n)
        file = self.fds[fd][0] if fd in self.fds else File()
        length = len(file.entries)
        wanted = "" if 0 <= position < length else "ESTALE" if 0 < length <= position < file.longest else "EINVAL"
        wanted = wanted if fd in self.fds else "EBADF"
        self._start(wanted, "sample", file, fd, None, writes=False, position=position)

    def _start(
        self, wanted: str, op: str, file: File, fd: int, adds: tuple[list[int], int] | None, writes: bool = True, **args: object
    ) -> None:
        if wanted:
            self.expect(wanted, op, fd=fd, **args)
            return
        call = self.w.start(op, fd=fd, **args)
        assert self.w.is_open(call), self.w.replies[self.w.pid, call]
        work = self.works[next(reversed(self.w.jobs))] = Work(call, fd, file, adds)
        if writes:
            file.writer = work
        else:
            file.readers += 1

    @precondition(lambda self: self.works)
    @rule(new=tokens)
    def deliver(self, new: list[int]) -> None:
        job = self.w.job()
        file = self.works[job.job].file
        if isinstance(job, GenerateJob) and new:
            new = new[: LIMIT - file.following]
            file.add(new, file.following)
            self.w.deliver(new)

    @precondition(lambda self: self.works)
    @rule(ok=st.booleans())
    def finish(self, ok: bool) -> None:
        work = self._end(self.w.job().job)
        if ok:
            if work.adds is not None:
                work.file.add(*work.adds)
            self.w.step()
        else:
            self.w.fail()
        assert isinstance(self.w.replies[self.w.pid, work.call], SymphonyError) is not ok

    @precondition(lambda self: self.works)
    @rule(n=pick)
    def cancel(self, n: int) -> None:
        work = list(self.works.values())[n % len(self.works)]
        work.cancelled = True
        self.w("cancel", target=work.call)

    @rule()
    def device_ends_cancelled_work(self) -> None:
        for job, work in list(self.works.items()):
            if work.cancelled:
                self._end(job)
        self.w.reap()

    def _end(self, job: int) -> Work:
        work = self.works.pop(job)
        if work.file.writer is work:
            work.file.writer = None
        else:
            work.file.readers -= 1
        return work

    @invariant()
    def all_that_can_be_read_is_the_models(self) -> None:
        self.w.check()
        assert [f.path for f in self.w("list").files] == sorted(self.names)
        for path, file in self.names.items():
            assert self._read(path=path) == file.entries
        for fd, (file, _) in self.fds.items():
            assert self._read(fd=fd) == file.entries
            stat = self.w("stat", fd=fd).file
            assert stat.nlink == sum(other is file for other in self.names.values())
            assert stat.num_open == sum(other is file for other, _ in self.fds.values())
        held = (
            {id(f) for f in self.names.values()} | {id(f) for f, _ in self.fds.values()} | {id(w.file) for w in self.works.values()}
        )
        assert len(held) == len(self.w.files)

    def _read(self, **args: object) -> list[tuple[int, int]]:
        result = self.w("read", **args)
        return list(zip(unpack_tokens(result.tokens), unpack_tokens(result.positions), strict=True))

    def teardown(self) -> None:
        self.w.disconnect()
        self.w.reap()
        self.w.assert_empty()
        assert len(self.w.files) == len({id(file) for file in self.names.values()})


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=count(100, 2000), stateful_step_count=40, deadline=None)
