"""Our own processes beside the kernel's host (engine/beside.py).

    host ==exec==> python -s -P -m MODULE FD words ...      fork servers, the tool host, the probe of the confinement
       `--- a socketpair, where they talk ---'

They inherit no file but that socket and the server's log (their output is for people), and no variable of the server's but those
that they are given. They stay in our session, in groups of their own: Ctrl-C at the server's terminal is for the server, and where
the scheduler groups by session (autogroup) priorities count within a session only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

import vllm_symphony

_LOG_FD = 2
_PR_SET_PDEATHSIG = 1
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(vllm_symphony.__file__)))


def command(module: str) -> tuple[str, ...]:
    """What runs it, without the user's site-packages and the folder that we are in."""
    return (sys.executable, "-s", "-P", "-m", module)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """All that such a process can see of ours; what is `more` counts."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": _ROOT, **(more or {})}


def start(
    words: Sequence[str], variables: Mapping[str, str] | None = None, *, stdout: int = _LOG_FD, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start it; does not wait. Raises OSError."""
    return subprocess.Popen(
        words, env=environment(variables), stdin=subprocess.DEVNULL, stdout=stdout, pass_fds=pass_fds, process_group=0, cwd="/"
    )


def start_connected(
    module: str, words: Sequence[str], kind: socket.SocketKind, variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start it with its end of a socketpair as its first argument; gives our end, which does not block. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    try:
        fd = theirs.fileno()
        process = start([*command(module), str(fd), *words], variables, pass_fds=[fd])
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return process, ours


def end_with_parent() -> None:
    """This process gets SIGTERM when its parent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
