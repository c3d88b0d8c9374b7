"""What one process and the whole machine may hold (kernel/limits.py). Each limit names the error that passing it gives."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_symphony.abi.types import ResourceLimits

PROGRAM = ResourceLimits(
    wall_s=3600.0, cpu_s=60.0, memory_bytes=256 << 20, tasks=16, fds=64, processes=9, depth=4, calls_per_s=500.0
)


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
    grace_s: float = 5.0  # from TERM to KILL; from a limit that is used up to TERM
    channels: int = 4096  # with a name or open: EDQUOT
    channels_each: int = 1024  # of one principal: EDQUOT
    handles: int = 256  # of channels, a process: EMFILE
    message_bytes: int = 1 << 16  # of one message: EINVAL
    message_fds: int = 16  # files that come along: EINVAL
    queue_messages: int = 1024  # the most that a channel's capacity may be: EINVAL
    queue_bytes: int = 1 << 20  # that wait in one queue: as if it were full
    mail_bytes: int = 1 << 26  # that one principal sent and nobody has received: EDQUOT
    input_bytes: int = 1 << 20  # of standard input that wait for one program: EAGAIN
    tool_args_bytes: int = 1 << 18  # EINVAL
    tool_calls: int = 64  # in flight, a process: EAGAIN
    programs: int = 10_000  # installed, of one principal: EDQUOT
    programs_bytes: int = 256 << 20  # theirs: EDQUOT
    program_bytes: int = 4 << 20  # source or module: ENOEXEC
    program: ResourceLimits = PROGRAM  # of a program that is spawned without limits, with all below it


DEFAULT = Limits()
