"""Starts a program, and ends it with all its descendants (tools/launch.py).

    python -I -S launch.py UID FOLDER CWD -- COMMAND ...     stdin, stdout, stderr, environment: the program's

    tool host --(dies: SIGTERM by the kernel; or sends it)--> launcher --SIGKILL--> the program, its children, their orphans

The launcher is their subreaper: a process that left its group and its session, and whose parent is dead, becomes the launcher's
child and is found all the same. UID -1: the caller's own; else the program runs as that user, which nobody else has. FOLDER is
removed at the end. Only the standard library, and no import of the package: this starts in 15 ms and stays small.
"""

import ctypes
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
MAX_OPEN_FILES, MAX_PROCESSES = 256, 256
EXIT_NOT_STARTED = 127
SWEEP_S = 4.0
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main() -> int:
    """Exit code: the program's, 128 + n for signal n."""
    uid, folder, cwd, command = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[5:]
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP))
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it died before we asked to be told
        return EXIT_NOT_STARTED
    program = os.fork()
    if program == 0:
        _become(uid, cwd, command)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # the pipes are the program's alone: their ends must be seen
        os.dup2(null, fd)
    code = _until_end(program)
    _sweep()
    _remove(folder)
    return code


def _become(uid: int, cwd: str, command: list[str]) -> None:
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
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        os.chdir(cwd)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)
    except OSError as e:
        who = f" as uid {uid}" if uid >= 0 else ""
        os.write(2, f"cannot run {command[0]}{who}: {e.strerror}\n".encode())
    finally:
        os._exit(EXIT_NOT_STARTED)


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
