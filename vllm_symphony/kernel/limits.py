"""What one process and the whole machine may hold (kernel/limits.py). Each limit names the error that passing it gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep any program from growing the kernel without end."""

    fds: int = 1024  # open files a process: EMFILE
    threads: int = 1024  # a process: EAGAIN
    calls: int = 4096  # calls in flight a process: EAGAIN
    items: int = 1024  # forwards in one forward_many: EINVAL
    processes: int = 4096  # running programs: EAGAIN
    sessions: int = 16_384  # remote programs: EAGAIN
    sessions_each: int = 4096  # of one principal: EAGAIN
    requests: int = 256  # results kept for a retry with the same request_id, a process or a principal
    requesters: int = 1024  # principals whose results are kept for calls without a process of their own
    files: int = 1 << 20  # files, named or not: EDQUOT
    name_bytes: int = 255  # of one part of a path: ENAMETOOLONG
    path_bytes: int = 4096  # ENAMETOOLONG
    random_bytes: int = 1 << 16  # of one `random`: EINVAL
    emit_bytes: int = 1 << 18  # of one `emit`: EINVAL
    event_count: int = 4096  # events kept of a process; older ones become a gap
    event_bytes: int = 1 << 20
    part_events: int = 64  # events or records in one part of a stream
    part_bytes: int = 1 << 16
    ended: int = 256  # ended programs without a parent that `ps` still shows
    log_records: int = 100_000
    step_records: int = 20_000
    trace_records: int = 1024  # records that a strace is sent in one turn
    watchers: int = 1024  # calls that watch files: EAGAIN
    watch_events: int = 1024  # that one of them has not read; older ones are lost
    grace_s: float = 5.0  # from TERM to KILL


DEFAULT = Limits()
