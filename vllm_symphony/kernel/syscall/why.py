"""why: what each thread of a process waits for (kernel/syscall/why.py).

    its call waits for    a job         the device knows: batch, pages, queue (kernel/effect.py `Device.job_state`)
                          a text job    tokenizer
                          a child       child
                          a stream      child: who is looked at has nothing new
                          a lock        lock
                          a message, or room for one    channel
                          pages, records, the index    disk
                          a tool        tool
                          time          timer
                          CONT          stopped
    it is in no call      running, or reader (it does not take its answers), or client (nobody is connected)

A thread with several calls in flight has a line for each. Only `flock` waits for a lock: a write on a busy or a locked file is
refused with EBUSY.
"""

from __future__ import annotations

from collections.abc import Collection

from vllm_symphony.abi.calls import PidArgs, WhyResult
from vllm_symphony.abi.types import Credentials, ProcessState, ThreadWait
from vllm_symphony.kernel.call import Call, Held, Pending
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.lock import LockWait
from vllm_symphony.kernel.fs.watch import Watcher
from vllm_symphony.kernel.ipc.explain import explain
from vllm_symphony.kernel.ipc.wait import ChannelWait
from vllm_symphony.kernel.job import Job
from vllm_symphony.kernel.lifecycle import ChildWait
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process
from vllm_symphony.kernel.saving import Upkeep
from vllm_symphony.kernel.sched.view import NOTHING
from vllm_symphony.kernel.syscall.find import FindWork
from vllm_symphony.kernel.syscall.forward import Batch
from vllm_symphony.kernel.syscall.text import TextWork
from vllm_symphony.kernel.syscall.tier import MoveWork
from vllm_symphony.kernel.syscall.tool import ToolWork
from vllm_symphony.kernel.syscall.view import Tracer, Viewer, demand_door
from vllm_symphony.trace import summary

UNREAD_BYTES = 1 << 20  # from here on a peer's calls are held back until it reads (engine/connection.py)
_MAX_HOLDERS = 5
_STOPPED = "it was sent STOP and goes on at CONT"
_WORST_FIRST = ("pages", "queue", "batch")


def why(m: Machine, call: Call, a: PidArgs) -> WhyResult:
    """The process, and a line for each call that it is in and each thread that is in none."""
    demand_door(call)
    process = m.find(a.pid, call.cred)
    calls = [c for c in process.calls.values() if c is not call and c.pending is not None]
    busy = {c.tid for c in calls}
    waits = [_in_call(m, c, call) for c in calls] + [_outside(m, process, tid, call) for tid in process.threads if tid not in busy]
    waits.sort(key=lambda wait: (wait.tid, wait.since_ns))
    return WhyResult(process.stat(m.model.page_size, m.offset_ns), tuple(waits))


def _in_call(m: Machine, c: Call, asked: Call) -> ThreadWait:
    assert c.pending is not None
    cause, detail = _cause(m, c.pending, asked)
    thread = c.process.threads.get(c.tid)
    name = thread.name if thread is not None else ""
    return ThreadWait(c.tid, name, c.op, summary.text(c.op, c.digest), c.start_ns + m.offset_ns, cause, detail)


def _outside(m: Machine, process: Process, tid: int, asked: Call) -> ThreadWait:
    since_ns = m.log.last_end_ns(process.pid, tid) or process.started_ns
    cause, detail = "running", ""
    if process.stopped:
        cause, detail = "stopped", _STOPPED
    elif process.state is ProcessState.STARTING:
        detail = "its code has not started"
    elif process.kind is Kind.SESSION and not process.connected:
        cause, detail = "client", "nobody is connected"
        if process.lease_timer is not None:
            detail += f"; its lease ends in {_seconds(process.lease_timer.when_ns - asked.start_ns)}"
    elif (unread := m.unread_bytes(process.pid)) > UNREAD_BYTES:
        cause, detail = "reader", f"{unread} bytes of answers are not read; its calls wait until they are"
    return ThreadWait(tid, process.threads[tid].name, "", "", since_ns + m.offset_ns, cause, detail)


def _cause(m: Machine, pending: Pending, asked: Call) -> tuple[str, str]:
    match pending:
        case Job():
            return _job(m, pending, asked.cred)
        case Batch():
            states = [_job(m, work, asked.cred) for work in pending.open.values()]
            cause, detail = min(states, key=lambda state: _WORST_FIRST.index(state[0]))
            return cause, "; ".join(filter(None, (f"{len(states)} of {len(pending.results)} forwards are not done", detail)))
        case Held():
            return "stopped", _STOPPED
        case TextWork():
            ahead = list(m.works).index(pending.id)
            return "tokenizer", f"text calls before it: {ahead}" if ahead else "it is next, or worked on"
        case ChildWait():
            return "child", _children(pending)
        case Viewer():
            return "child", f"process {pending.target.pid} has shown nothing new"
        case LockWait():
            return "lock", _lock(m, pending, asked)
        case FindWork():
            return "disk", f"the search index, of {len(pending.paths)} files"
        case ChannelWait():
            return "channel", explain(pending, asked.cred)
        case ToolWork():
            return "tool", pending.name
        case MoveWork():
            return "disk", "its pages are on their way"
        case Upkeep():
            return "disk", "what is kept is written, or looked at"
        case Watcher():
            return "child", f"nothing has happened to {m.files.path_of(pending.top) or 'what was removed'}"
        case Tracer():
            return "child", "no call has ended since"
        case _ if pending.timer is not None:
            return "timer", f"ends in {_seconds(pending.timer.when_ns - asked.start_ns)}"
    return "timer", ""


def _job(m: Machine, job: Job, cred: Credentials) -> tuple[str, str]:
    """What the device says of it, and for want of pages who has them."""
    cause, detail = m.job_state(job.id)
    if cause == "pages" and (holders := _holders(m, job, cred)):
        detail = f"{detail}; held by {holders}"
    if cause == "queue" and (capped := _capped(m, job.process.cred.principal)):
        detail = f"{detail}; {capped}" if detail else capped
    if job.stopping is not None:
        detail = f"{detail}; it was told to stop: {job.stopping.message}" if detail else f"told to stop: {job.stopping.message}"
    return cause, detail


def _capped(m: Machine, principal: str) -> str:
    """That no more calls of it compute at once, if so many do."""
    cap = m.sched.weight(principal).cap
    if cap is None or (running := m.queue_view().principals.get(principal, NOTHING).running) < cap:
        return ""
    return f"calls of {principal} that compute: {running}, its cap: {cap}"


def _holders(m: Machine, job: Job, cred: Credentials) -> str:
    """Processes with open files of many pages, most first; those that `cred` may not see are together `others`."""
    size = m.model.page_size
    pages: dict[int, int] = {}
    others = 0
    for process in m.processes.values():
        inodes = {file.inode.ino: file.inode for file in process.fds.files.values()}
        held = sum(inode.num_pages(size) for inode in inodes.values() if inode is not job.inode)
        if held and process.visible_to(cred):
            pages[process.pid] = held
        else:
            others += held
    most = sorted(pages.items(), key=lambda item: (-item[1], item[0]))
    words = [f"process {pid} ({num})" for pid, num in most[:_MAX_HOLDERS]]
    others += sum(num for _, num in most[_MAX_HOLDERS:])
    return ", ".join([*words, *([f"others ({others})"] if others else [])])


def _lock(m: Machine, wait: LockWait, asked: Call) -> str:
    """Who is in the way of the lock."""
    lock = wait.lock
    holds = {holder: hold for holder, hold in lock.holds.items() if holder is not wait.holder}
    if holds:
        end_ns = max(hold.timer.when_ns for hold in holds.values())
        words = f"held by {_openers(m, holds.keys(), asked.cred)} ({lock.kind}); "
        words += f"the lease ends in {_seconds(end_ns - asked.start_ns)}"
    else:
        words = "a call that began before still writes the file"
    ahead = 0 if wait is lock.upgrade else list(lock.queue).index(wait) + (lock.upgrade is not None)
    return f"{words}; calls before it: {ahead}" if ahead else words


def _openers(m: Machine, holders: Collection[OpenFile], cred: Credentials) -> str:
    """The processes of open files; those that `cred` may not see are together `others`."""
    processes = [p for p in m.processes.values() if any(file.holder in holders for file in p.fds.files.values())]
    seen = [f"process {p.pid}" for p in processes if p.visible_to(cred)]
    hidden = ["others"] if len(seen) < len(processes) else []
    return ", ".join([*seen[:_MAX_HOLDERS], *(["others"] if len(seen) > _MAX_HOLDERS else hidden)])


def _children(wait: ChildWait) -> str:
    children = wait.parent.children
    if wait.wanted is not None:
        child = next((c for pid, c in children.items() if pid == wait.wanted), None)
        return f"process {wait.wanted}" + (f" ({child.name}) is {child.shown_state}" if child is not None else "")
    shown = ", ".join(str(pid) for pid in list(children)[:_MAX_HOLDERS]) + (", ..." if len(children) > _MAX_HOLDERS else "")
    return f"any of {len(children)}: {shown}"


def _seconds(ns: int) -> str:
    return f"{max(0, ns) / 1e9:.1f} s"
