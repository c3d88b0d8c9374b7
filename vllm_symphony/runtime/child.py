"""A program's process, from the fork to its exit (runtime/child.py).

    fork -> dies with its parent -> locked down -> loop made -> waits on the leash
         -> its files -> first frame: the program -> load -> run -> `exit` frame -> os._exit

File descriptors: 0 /dev/null, or a pipe that the kernel writes input to; 1 and 2 pipes to the reactor (before: the server's log); 3
the leash, then the socket to the kernel; above, those of the loop. The exit code says how it ended: 0 it returned, 1 it raised, 2
it is no program or the arguments do not fit, 130 it was cancelled; SystemExit is honoured.
Nothing of the program is read before the lockdown (runtime/sandbox/) is complete.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket

from vllm_symphony.abi.codec import read_answer
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.runtime import advice, pool
from vllm_symphony.runtime.image import Image
from vllm_symphony.runtime.sandbox import Plan, Slot, lock_down

SOCKET_FD = 3
NICE = 10
_MAX_FDS = 4
_MYSELF = 0  # as a control group understands it
_ANY_FD = 1 << 30
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
READY_NAME, PROGRAM_NAME = b"symphony-ready", b"program"  # what the system's `ps` and `top` show
_libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, image: Image, leash_fd: int, plan: Plan | None, slot: Slot | None) -> int:
    """Become a program, when there is one; give the exit code. `parent` is the fork server's pid."""
    _leave_parent(parent)
    os.dup2(leash_fd, SOCKET_FD, inheritable=False)
    leash = socket.socket(fileno=SOCKET_FD)
    try:
        _confine(plan, slot)
    except OSError as e:
        pool.tell_failure(leash, e)
        return 0
    image.prepare()
    if not pool.is_assigned(leash):
        image.rehearse()
    if not _take_files(leash):
        return 0  # not needed, or the fork server is gone
    sock = leash  # the number is the socket's now
    reader = FrameReader()
    _libc.prctl(_PR_SET_NAME, PROGRAM_NAME, 0, 0, 0)
    first, *later = _first_frames(sock, reader)
    program = read_answer(first).program
    assert program is not None, "the first frame is the program"
    return image.run(program, sock, reader, later)


def _leave_parent(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(137)
    _libc.prctl(_PR_SET_NAME, READY_NAME, 0, 0, 0)
    os.nice(NICE)


def _confine(plan: Plan | None, slot: Slot | None) -> None:
    """For good. Entering a control group may take 10 ms, while the system waits for all CPUs: so we wait, not the fork server."""
    if slot is not None:
        slot.enter(_MYSELF)
    if plan is None:
        os.closerange(SOCKET_FD + 1, _ANY_FD)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    else:
        lock_down(plan, keep=range(SOCKET_FD + 1))
        advice.give()


def _take_files(leash: socket.socket) -> bool:
    """Wait for a program, and put its files where they belong; that of the leash becomes its socket's. False at the leash's end."""
    try:
        packet, fds, _, _ = socket.recv_fds(leash, 1, _MAX_FDS)
    except ConnectionError:
        return False
    if not packet:
        return False
    link, stdout, stderr, *stdin = fds
    for fd, number in ((stdout, 1), (stderr, 2), *((fd, 0) for fd in stdin), (link, SOCKET_FD)):
        os.dup2(fd, number, inheritable=number != SOCKET_FD)
        os.close(fd)
    return True


def _first_frames(sock: socket.socket, reader: FrameReader) -> list[bytes]:
    while True:
        data = sock.recv(1 << 18)
        if not data:
            os._exit(137)  # the reactor is gone
        frames = reader.feed(data)
        if frames:
            return frames
