"""Starts a program, and ends it with all its descendants (tools/launch.py).

    python -I -S launch.py SPEC        JSON: uid, folder, cwd, writable, command; stdin, stdout, stderr, environment: the program's

    tool host --(dies: SIGTERM by the kernel; or sends it)--> launcher --SIGKILL--> the program, its children, their orphans

The launcher is their subreaper: a process that left its group and its session, and whose parent is dead, becomes the launcher's
child and is found all the same. `uid` -1: the caller's own; else the program runs as that user, which nobody else has. `folder` is
removed at the end. Where the kernel has Landlock the program writes below `writable` only (null: anywhere), and signals none but
its own; it gets no new privileges in any case.

Only the standard library, and no import of the package: this starts in 20 ms and stays small. Source: landlock(7).
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
MAX_OPEN_FILES, MAX_PROCESSES = 256, 256
EXIT_NOT_STARTED = 127
SWEEP_S = 4.0
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # of Landlock, on all processors
_FIRST = 1 << 1 | 0b1_1111_1111 << 4  # write, remove, make
WRITES = {1: _FIRST, 2: _FIRST | 1 << 13, 3: _FIRST | 3 << 13, 4: _FIRST | 3 << 13, 5: _FIRST | 7 << 13}  # by Landlock's version
FILE_RIGHTS = 1 << 1 | 1 << 14 | 1 << 15
SCOPES = 0b11  # abstract sockets, signals
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl


def main() -> int:
    """Exit code: the program's, 128 + n for signal n."""
    spec = json.loads(sys.argv[1])
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP))
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it died before we asked to be told
        return EXIT_NOT_STARTED
    program = os.fork()
    if program == 0:
        _become(spec["uid"], spec["cwd"], spec["writable"], spec["command"])
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # the pipes are the program's alone: their ends must be seen
        os.dup2(null, fd)
    code = _until_end(program)
    _sweep()
    _remove(spec["folder"])
    return code


def _become(uid: int, cwd: str, writable: list[str] | None, command: list[str]) -> None:
    """In the child; does not return."""
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
        if uid >= 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            resource.setrlimit(resource.RLIMIT_NPROC, (MAX_PROCESSES, MAX_PROCESSES))
        _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if writable is not None:
            _bound(writable)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        os.chdir(cwd)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)
    except OSError as e:
        who = f" as uid {uid}" if uid >= 0 else ""
        os.write(2, f"cannot run {command[0]}{who}: {e.strerror}\n".encode())
    finally:
        os._exit(EXIT_NOT_STARTED)


def _bound(writable: list[str]) -> None:
    """No writes but below these, no signals but to what it starts. Does nothing where there is no Landlock. Raises OSError."""
    abi = _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return
    rights = WRITES[min(abi, 5)]
    attributes = struct.pack("=QQQ", rights, 0, SCOPES)[: 24 if abi >= 6 else 8]
    ruleset = _libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "no Landlock ruleset")
    for path in (*writable, *DEVICES):
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # what is not there cannot be written
            continue
        own = rights if os.path.isdir(path) else rights & FILE_RIGHTS
        _libc.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", own, fd), 0)
        os.close(fd)
    if _libc.syscall(RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock cannot be enforced")
    os.close(ruleset)


def _until_end(program: int) -> int:
    """Until the program ends or we are told to."""
    while True:
        if signal.sigwait((signal.SIGTERM, signal.SIGCHLD)) == signal.SIGTERM:
            return 128 + signal.SIGTERM
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def _sweep() -> None:
    """Kill whatever descends from us, until nothing does."""
    end_s = time.monotonic() + SWEEP_S
    while time.monotonic() < end_s:
        for pid in _descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _remove(folder: str) -> None:
    import shutil  # 10 ms that nobody waits for here

    shutil.rmtree(folder, ignore_errors=True)


def _descendants() -> list[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
    found, row = [], [os.getpid()]
    while row:
        row = [pid for pid, parent in parents.items() if parent in row]
        found += row
    return found


if __name__ == "__main__":
    sys.exit(main())
