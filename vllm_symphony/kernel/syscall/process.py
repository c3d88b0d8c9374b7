"""Calls on processes and threads (kernel/syscall/process.py).

    spawn inherited feed wait kill ps getpid exit emit thread_start thread_end cancel hello keep_alive ping

A program that is spawned by a process is its child and ends with it, unless detached. What an edge spawns for a principal has no
parent: it is that principal's, and does not end when the edge does. What one may not see does not exist: ESRCH.
"""

from __future__ import annotations

import json

from vllm_symphony.abi.calls import (
    Cancel,
    Done,
    Emit,
    Exit,
    Feed,
    Hello,
    HelloResult,
    InheritedResult,
    Kill,
    LeaseResult,
    NoArgs,
    PidResult,
    Ps,
    PsResult,
    Spawn,
    ThreadEnd,
    ThreadStart,
    Wait,
    WaitResult,
)  # fmt: skip
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, FEATURES, ExitStatus, Signal
from vllm_symphony.errors import (
    BrokenPipe,
    Interrupted,
    InvalidArgument,
    NotOwner,
    NotSupported,
    TimedOut,
    TooManyFiles,
    WouldBlock,
)  # fmt: skip
from vllm_symphony.kernel import budget, grant, lease, lifecycle, program
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.effect import FeedInput
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind
from vllm_symphony.kernel.sched.view import NOTHING
from vllm_symphony.kernel.syscall import argument
from vllm_symphony.kernel.tally import Thread
from vllm_symphony.kernel.timer import after

EXIT_REASONS = ("exit", "exception", "signal", "cancelled", "orphan", "device", "program")
MAX_ARGS = 1 << 20  # characters of JSON text
SCOPE = "run"  # what a principal needs to start programs


def hello(m: Machine, call: Call, a: Hello) -> HelloResult:
    """Who are you, what do you speak."""
    if a.abi_major != ABI_MAJOR:
        theirs = f"{a.abi_major}.{a.abi_minor}"
        raise NotSupported(f"the server speaks ABI {ABI_MAJOR}.{ABI_MINOR}, not {theirs}", abi_major=ABI_MAJOR)
    return HelloResult(ABI_MAJOR, ABI_MINOR, call.process.pid, FEATURES)


def keep_alive(m: Machine, call: Call, a: NoArgs) -> LeaseResult:
    """Begin the session's lease anew; that of a connected one does not run."""
    if call.process.kind is not Kind.SESSION:
        raise InvalidArgument("only a session has a lease")
    lease.renew(m, call.process, call.start_ns)
    return LeaseResult(call.process.lease_s)


def ping(m: Machine, call: Call, a: NoArgs) -> Done:
    """Is the kernel there."""
    return Done()


def cancel(m: Machine, call: Call, a: Cancel) -> Done:
    """End another call of the caller early."""
    target = call.process.calls.get(a.target)
    if target is not None and target is not call and target.pending is not None and target.cred.principal == call.cred.principal:
        target.pending.interrupt(m, Interrupted("cancelled by the caller"), call.start_ns)
    return Done()


def getpid(m: Machine, call: Call, a: NoArgs) -> PidResult:
    """The caller's own pid."""
    return PidResult(call.process.pid)


def spawn(m: Machine, call: Call, a: Spawn) -> PidResult:
    """Start a program; it is STARTING until its code runs."""
    caller = call.process
    if SCOPE not in call.cred.scopes:
        why = f"scope {SCOPE} is missing, or does not count while programs are not confined (symphony serve --unconfined)"
        raise NotOwner(f"{call.cred.principal} may not start programs here: {why}", scope=SCOPE)
    if not a.entry.isidentifier() or len(a.entry) > lifecycle.MAX_NAME or len(a.name) > lifecycle.MAX_NAME:
        raise InvalidArgument(
            f"entry must be a function's name of up to {lifecycle.MAX_NAME} characters, and so must name be short"
        )
    if len(a.args) > MAX_ARGS:
        raise InvalidArgument(f"args has {len(a.args)} characters, the most is {MAX_ARGS}: put more into a file", limit=MAX_ARGS)
    try:
        keywords = json.loads(a.args)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"args is no JSON: {error}") from None
    if not isinstance(keywords, dict):
        raise InvalidArgument("args must be a JSON object of keyword arguments")
    if caller.is_leaving:
        raise Interrupted("the process is ending and starts nothing more")
    granted = grant.for_child(m, call, a.tools)
    if a.limits is not None:
        budget.demand_limits(a.limits)
    what = program.prepare(m, call, a)
    granted = grant.for_child(m, call, a.tools)
    if what.tools is not None:
        granted = granted.narrowed(what.tools)
    files = _inherited_files(m, call, a.fds)
    child = lifecycle.launch(m, None if caller.kind is Kind.EDGE else caller, what, a, call.start_ns)
    for name, file in files.items():
        child.inherited[name] = child.fds.add(file)
    child.abi = what.abi
    child.umask = caller.umask
    child.grant = granted
    if child.abi:
        child.minor = int(child.abi.partition(".")[2])
    return PidResult(child.pid)


def _inherited_files(m: Machine, call: Call, fds: dict[str, int]) -> dict[str, OpenFile]:
    """New open files for the child, with the rights of the caller's. Locks stay with the caller."""
    if len(fds) > m.limits.fds:
        raise TooManyFiles(f"{len(fds)} files for the child, the most a process may have is {m.limits.fds}", limit=m.limits.fds)
    for name in fds:
        if not name.isprintable() or not 0 < len(name) <= lifecycle.MAX_NAME:
            raise InvalidArgument(
                f"the name of an inherited file has 1..{lifecycle.MAX_NAME} printable characters, not {name[:64]!r}"
            )
    files = {name: call.process.fds.get(fd, call.cred) for name, fd in fds.items()}
    return {name: OpenFile(file.inode, file.writable, call.cred.principal) for name, file in files.items()}


def inherited(m: Machine, call: Call, a: NoArgs) -> InheritedResult:
    """The files that the program was started with, as far as it has not closed them."""
    process = call.process
    return InheritedResult({name: fd for name, fd in process.inherited.items() if fd in process.fds.files})


def feed(m: Machine, call: Call, a: Feed) -> Done:
    """Write to a program's standard input."""
    target = m.find(a.pid, call.cred)
    if len(a.data) > m.limits.input_bytes:
        raise InvalidArgument(f"{len(a.data)} bytes, the most at once is {m.limits.input_bytes}", limit=m.limits.input_bytes)
    waiting = m.input_bytes(target.pid) if target.stdin and not target.has_ended else None
    if waiting is None:
        why = "has ended" if target.has_ended else "has closed it" if target.stdin else "was started without one"
        raise BrokenPipe(f"process {a.pid} has no standard input: it {why}", pid=a.pid)
    if waiting and waiting + len(a.data) > m.limits.input_bytes:
        raise WouldBlock(
            f"{waiting} bytes of input wait for process {a.pid}, the most is {m.limits.input_bytes}", limit=m.limits.input_bytes
        )
    if a.data or a.eof:
        m.emit(FeedInput(target.pid, a.data, a.eof))
    return Done()


def wait(m: Machine, call: Call, a: Wait) -> WaitResult | None:
    """Until a child ends; reaps it."""
    argument.demand_timeout(a.timeout_s)
    result = lifecycle.reap(m, call.process, a.pid)
    if result is None:
        pending = lifecycle.ChildWait(call, a.pid)
        call.pending = pending
        if a.timeout_s is not None:
            error = TimedOut(f"no child ended in {a.timeout_s:g} s", timeout_s=a.timeout_s)
            pending.timer = m.timers.at(after(call.start_ns, a.timeout_s), lambda now_ns: pending.interrupt(m, error, now_ns))
    return result


def kill(m: Machine, call: Call, a: Kill) -> Done:
    """Signal a program; one that has ended takes no harm."""
    if a.signal not in tuple(Signal):
        raise InvalidArgument(f"signal must be one of {', '.join(Signal)}, not {a.signal[:64]!r}")
    target = m.find(a.pid, call.cred)
    if target.kind not in (Kind.PROGRAM, Kind.SESSION):
        raise NotOwner(f"process {a.pid} is a connection, not a program", pid=a.pid)
    if a.signal in (Signal.STOP, Signal.CONT) and target.kind is Kind.SESSION:
        raise InvalidArgument(f"process {a.pid} is a session, whose code runs at its client: {a.signal} is for programs", pid=a.pid)
    match a.signal:
        case Signal.KILL:
            lifecycle.kill(m, target, call.start_ns)
        case Signal.TERM:
            lifecycle.terminate(m, target, call.start_ns)
        case Signal.STOP:
            lifecycle.stop(m, target)
        case _:
            lifecycle.go_on(m, target)
    return Done()


def ps(m: Machine, call: Call, a: Ps) -> PsResult:
    """Programs that the caller may see, or the one process asked for."""
    if a.pid is not None:
        found = [m.find(a.pid, call.cred)]
    else:
        found = [p for p in m.processes.values() if p.kind in (Kind.PROGRAM, Kind.SESSION) and p.visible_to(call.cred)]
    for process in found:
        process.settle_pages(m.model.page_size, call.start_ns)
    standings = m.queue_view().processes
    return PsResult(tuple(p.stat(m.model.page_size, m.offset_ns, standings.get(p.pid, NOTHING)) for p in found))


def emit(m: Machine, call: Call, a: Emit) -> Done:
    """One more event of the caller, for its viewers."""
    if len(a.value) > m.limits.emit_bytes:
        raise InvalidArgument(f"{len(a.value)} characters, the most is {m.limits.emit_bytes}", limit=m.limits.emit_bytes)
    try:
        json.loads(a.value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"value is no JSON: {error}") from None
    lifecycle.note(m, call.process, "emit", a.value, call.start_ns)
    return Done()


def exit_(m: Machine, call: Call, a: Exit) -> Done | None:
    """Record how the program ended; the OS process must follow within the grace. A session ends here."""
    process = call.process
    if process.kind not in (Kind.PROGRAM, Kind.SESSION):
        raise NotOwner("exit is for programs; close the connection instead")
    if not 0 <= a.code <= 255 or a.reason not in EXIT_REASONS:
        raise InvalidArgument(f"code must be in 0..255 and reason one of {', '.join(EXIT_REASONS)}", code=a.code)
    process.reported = ExitStatus(a.code, a.reason, a.value, a.error)
    if process.kind is Kind.SESSION:
        m.finish(call, Done(), call.start_ns)
        lifecycle.finalise(m, process, process.reported, call.start_ns)
        return None
    lifecycle.start_grace(m, process, call.start_ns)
    return Done()


def thread_start(m: Machine, call: Call, a: ThreadStart) -> Done:
    """Name a new thread."""
    threads = call.process.threads
    if a.tid in threads or not 0 < a.tid < 1 << 53 or len(a.name) > lifecycle.MAX_NAME:
        raise InvalidArgument(
            f"tid must be new and positive, not {a.tid}; its name at most {lifecycle.MAX_NAME} characters", tid=a.tid
        )
    if len(threads) >= m.limits.threads:
        raise WouldBlock(f"{len(threads)} threads run, the most a process may have", limit=m.limits.threads)
    threads[a.tid] = Thread(a.name)
    return Done()


def thread_end(m: Machine, call: Call, a: ThreadEnd) -> Done:
    """The thread is gone; its calls in flight end with EINTR."""
    process = call.process
    if a.tid == 0 or a.tid not in process.threads:
        raise InvalidArgument(f"thread {a.tid} cannot end: it is the main one, or unknown", tid=a.tid)
    del process.threads[a.tid]
    for other in list(process.calls.values()):
        if other.tid == a.tid and other is not call and other.pending is not None:
            other.pending.interrupt(m, Interrupted(f"thread {a.tid} ended", tid=a.tid), call.start_ns)
    return Done()
