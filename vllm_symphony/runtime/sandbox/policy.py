"""What a program may ask of the system, call by call (runtime/sandbox/policy.py).

    ALLOWED   always                    memory, threads of its own, time, reading, its own descriptors
    GUARDED   if the arguments pass     clone: threads only; kill: itself only; fcntl, ioctl, prctl: harmless commands only
    FATAL     the program ends (159)    what no program calls by mistake: ptrace, bpf, io_uring, mounts, keys, kernel modules
    the rest  EPERM                     sockets, exec, fork, writing to the file system, raising of limits and priorities

A list of what is allowed, so a call that a later kernel adds is refused. Which files can be opened is not decided here (a filter
cannot look behind a pointer) but by Landlock; where there is no Landlock and no private root, `open` is refused as a whole.

Refused by argument, and why:
  socketpair   only stream and seqpacket: a datagram socket of a pair can still send to any named socket of the machine
  sendto       only without an address, for the same reason
  prctl        not PR_SET_PDEATHSIG: a program that outlives its fork server would be nobody's
  clock_*      only clocks without a pid in them: others' CPU time is not for programs
  getsid, ...  only of oneself: else it would tell which processes there are
  mmap         not from the machine's huge pages
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from errno import EINVAL, ENOSYS, ENOTTY, EPERM

OWN_PID = -1  # stands for the pid of the process that is locked down


@dataclass(frozen=True, slots=True)
class Check:
    """What one argument must be. `is`: one of `values`; `has`, `lacks`: all, none of these bits; `most`: not above; `null`: 0."""

    arg: int
    kind: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """All checks must pass, else the call fails with `error`."""

    checks: tuple[Check, ...]
    error: int = EPERM


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _is(arg: int, *values: int) -> Check:
    return Check(arg, "is", values)


ALLOWED = _names("""
    read write readv writev recvfrom recvmsg sendmsg close futex epoll_wait epoll_pwait epoll_ctl poll ppoll select pselect6
    nanosleep sched_yield gettimeofday time getrandom
    munmap mprotect mremap brk madvise membarrier rseq set_robust_list get_robust_list set_tid_address
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack restart_syscall pause
    alarm setitimer getitimer signalfd4 timerfd_create timerfd_settime timerfd_gettime
    epoll_create epoll_create1 eventfd eventfd2 pipe pipe2 dup dup2 dup3 close_range
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 lseek recvmmsg shutdown getsockname getpeername getsockopt
    fstat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd
    getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp capget
    sched_getaffinity sched_get_priority_max sched_get_priority_min getcpu
    getrusage getrlimit setrlimit times sysinfo uname umask wait4 waitid exit exit_group
""")

FILES = ("open", "openat", "openat2")

FATAL = _names("""
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd bpf perf_event_open userfaultfd
    io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
    mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr unshare setns
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl
    open_by_handle_at iopl ioperm modify_ldt uselib
""")

_THREAD = 0x10000  # CLONE_THREAD
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid, net
_HUGE_PAGES = 0x40000  # MAP_HUGETLB
_UNIX, _STREAMS = 1, tuple(kind | flags for kind in (1, 5) for flags in (0, 0o4000, 0o2000000, 0o2004000))
_SOCKET_OPTIONS = (2, 7, 8, 9, 20, 21)  # SO_REUSEADDR, SNDBUF, RCVBUF, KEEPALIVE, RCVTIMEO, SNDTIMEO
_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)  # F_DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC, GETPIPE_SZ
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX

GUARDED: Mapping[str, Guard] = {
    **{name: Guard((Check(0, "most", (11,)),), EINVAL) for name in ("clock_gettime", "clock_getres", "clock_nanosleep")},
    **{name: Guard((_is(0, 0, OWN_PID),)) for name in ("prlimit64", "getpgid", "getsid", "sched_getscheduler", "sched_getparam")},
    "getpriority": Guard((_is(0, 0), _is(1, 0, OWN_PID))),
    "sendto": Guard((Check(4, "null"),)),
    "mmap": Guard((Check(3, "lacks", (_HUGE_PAGES,)),)),
    "fcntl": Guard((_is(1, *_FCNTL),)),
    "ioctl": Guard((_is(1, *_IOCTL),), ENOTTY),
    "clone": Guard((Check(0, "has", (_THREAD,)), Check(0, "lacks", (_NEW_NAMESPACES,)))),
    "socketpair": Guard((_is(0, _UNIX), _is(1, *_STREAMS))),
    "setsockopt": Guard((_is(1, 1), _is(2, *_SOCKET_OPTIONS))),
    "prctl": Guard((_is(0, 15, 16),)),  # PR_SET_NAME, PR_GET_NAME
    "kill": Guard((_is(0, OWN_PID),)),
    "tgkill": Guard((_is(0, OWN_PID),)),
}

REFUSED: Mapping[str, int] = {"clone3": ENOSYS}  # its flags are behind a pointer; the C library falls back to clone
