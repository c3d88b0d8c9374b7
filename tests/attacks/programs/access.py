"""Attempts to see and touch what is not one's own. Each gives what it got through with; nothing is the right answer."""

import ctypes
import errno
import gc
import mmap
import os
import platform
import resource
import signal
import socket
import stat
import sys

sys.modules["vllm_symphony.runtime.advice"]._is_given = False  # it says early and in words what the layers below it hold

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def held(attempt, *args):
    """Whether it was refused."""
    try:
        attempt(*args)
    except (OSError, ValueError):
        return True
    return False


def call(number, *args):
    """A system call by its number; its errno, 0 when it worked."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in args))
    return ctypes.get_errno() if result < 0 else 0


async def read_files(paths: list):
    """Files of the server and the machine, by every way there is to open or name one."""
    through = []
    for path in paths:
        ways = {
            "open": lambda p: os.close(os.open(p, os.O_RDONLY)),
            "path": lambda p: os.close(os.open(p, os.O_PATH)),
            "write": lambda p: os.close(os.open(p, os.O_WRONLY)),
            "list": os.listdir,
            "stat": os.stat,
            "link": lambda p: os.link(p, "/x"),
            "symlink": lambda p: os.symlink(p, "/x"),
            "rename": lambda p: os.rename(p, p + "x"),
            "unlink": os.unlink,
            "chmod": lambda p: os.chmod(p, 0o777),
            "chdir": os.chdir,
            "execute": lambda p: os.execv(p, [p]),
        }
        through += [f"{name} {path}" for name, way in ways.items() if not held(way, path)]
    return through


async def dot_dot():
    """Out of the root, by relative names and by descriptors."""
    through = []
    for path in ("..", "../../..", "../../../../proc", "../../../../../etc/passwd", "/.", "/proc/self/root/etc", "/proc/1/root"):
        through += [] if held(lambda p=path: os.close(os.open(p, os.O_RDONLY))) else [path]
    library = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
    for path in ("../../../../../../etc/passwd", "../../../../../../proc/self/status"):
        through += [] if held(lambda p=path: os.open(p, os.O_RDONLY, dir_fd=library)) else [path]
    return through


async def sockets(paths: list, ports: list):
    """A socket of any family, a way to the server's doors."""
    through = []
    families = {
        "inet": 2,
        "inet6": 10,
        "unix": 1,
        "netlink": 16,
        "packet": 17,
        "alg": 38,
        "vsock": 40,
        "bluetooth": 31,
        "xdp": 44,
        "can": 29,
    }
    for name, family in families.items():
        for kind in (1, 2, 3, 5):
            through += [] if held(lambda f=family, k=kind: socket.socket(f, k)) else [f"{name} {kind}"]
    for path in paths:
        through += [] if held(lambda p=path: socket.socket(1, 1).connect(p)) else [path]
    for port in ports:
        through += [] if held(lambda p=port: socket.create_connection(("127.0.0.1", p), 1)) else [f"port {port}"]
    return through


async def pair_to_anywhere(paths: list):
    """A pair of datagram sockets, whose ends can send to any name; and the pairs that are allowed, with an address."""
    through = [] if held(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)) else ["datagram pair"]
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        left, _ = socket.socketpair(socket.AF_UNIX, kind)
        for path in (*paths, "\0abstract"):
            through += [] if held(lambda p=path, s=left: s.connect(p)) else [f"connect {path!r}"]
            through += [] if held(lambda p=path, s=left: s.sendto(b"x", p)) else [f"sendto {path!r}"]
            through += [] if held(lambda p=path, s=left: s.bind(p)) else [f"bind {path!r}"]
            if kind == socket.SOCK_STREAM:  # a seqpacket ignores the address, and the pair's other end gets it
                through += [] if held(lambda p=path, s=left: s.sendmsg([b"x"], [], 0, p)) else [f"sendmsg {path!r}"]
    return through


async def signals(pids: list):
    """Other processes, by all the calls that send signals."""
    through = []
    for pid in [*pids, 0, -1, 1, os.getppid(), -os.getppid()]:
        through += [] if held(os.kill, pid, 0) else [f"kill {pid}"]
        through += [] if held(os.kill, pid, signal.SIGKILL) else [f"kill -9 {pid}"]
        through += [] if held(os.killpg, abs(pid) or 2, 0) else [f"killpg {pid}"]
        through += [] if held(os.pidfd_open, abs(pid) or 2) else [f"pidfd_open {pid}"]
        through += [] if held(os.setpriority, os.PRIO_PROCESS, abs(pid), 19) else [f"setpriority {pid}"]
        through += [] if held(resource.prlimit, abs(pid) or 2, resource.RLIMIT_CPU) else [f"prlimit {pid}"]
        through += [] if held(os.sched_setaffinity, abs(pid), {0}) else [f"sched_setaffinity {pid}"]
    return through


async def fatal(number: int):
    """A call that no program makes by mistake: it does not come back."""
    return call(number, 0, 0, 0, 0, 0)


async def x32():
    """A call of the x32 ABI."""
    return call(0x40000000 | 39)


async def i386():
    """A call by the 32-bit entry."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


async def descriptors():
    """What was inherited."""
    kinds = {}
    for fd in range(1024):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        names = {
            stat.S_ISREG: "file",
            stat.S_ISDIR: "directory",
            stat.S_ISFIFO: "pipe",
            stat.S_ISSOCK: "socket",
            stat.S_ISCHR: "device",
        }
        kinds[fd] = next((name for test, name in names.items() if test(mode)), "other")
    return kinds


async def environment():
    """Ours, as Python and as the C library have it."""
    array = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    raw = []
    for i in range(100):
        if not array or array[i] is None:
            break
        raw.append(array[i].decode(errors="replace"))
    return {"python": dict(os.environ), "c": raw, "arguments": [sys.argv, sys.orig_argv]}


async def heap(secret: str):
    """The secret, in any object of this process: its parts are put together here, so that the search does not find itself."""
    wanted = bytes.fromhex(secret)
    text = wanted.decode()
    found = 0
    for one in gc.get_objects():
        try:
            values = one.values() if isinstance(one, dict) else one if isinstance(one, (list, tuple, set)) else (one,)
            for value in list(values):
                if value is text or value is wanted:
                    continue
                if (isinstance(value, str) and text in value) or (isinstance(value, bytes) and wanted in value):
                    found += 1
        except Exception:
            continue
    return found


async def limits():
    """Every limit, one higher; and the priority."""
    through = []
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            which = getattr(resource, name)
            soft, hard = resource.getrlimit(which)
            if hard == resource.RLIM_INFINITY:
                through += [] if name in ("RLIMIT_DATA", "RLIMIT_RSS", "RLIMIT_RTTIME") else [f"{name} is not limited"]
                continue
            through += [] if held(resource.setrlimit, which, (hard + 1, hard + 1)) else [name]
            through += [] if held(resource.prlimit, 0, which, (soft, hard + 1)) else [f"prlimit {name}"]
    through += [] if held(os.nice, -1) else ["nice"]
    through += [] if held(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0)) else ["scheduler"]
    return through


async def identity():
    """Being somebody else."""
    through = []
    for uid in (0, 1, os.getuid() + 1, os.getuid() - 1):
        through += [] if held(os.setuid, uid) else [f"setuid {uid}"]
        through += [] if held(os.setgid, uid) else [f"setgid {uid}"]
        through += [] if held(os.setresuid, uid, uid, uid) else [f"setresuid {uid}"]
    through += [] if held(os.setgroups, [0]) else ["setgroups"]
    through += [] if held(os.setsid) else ["setsid"]
    through += [] if held(os.sethostname if hasattr(os, "sethostname") else socket.sethostname, "x") else ["sethostname"]
    return through


async def clocks(pids: list):
    """The CPU time of other processes, which tells what they do; and whether they are there at all."""
    import time

    through = []
    for pid in pids:
        clock = (~pid << 3) | 2
        ways = {
            "clock_gettime": lambda c=clock: time.clock_gettime(c),
            "clock_getres": lambda c=clock: time.clock_getres(c),
            "getpgid": lambda p=pid: os.getpgid(p),
            "getsid": lambda p=pid: os.getsid(p),
            "getpriority": lambda p=pid: os.getpriority(os.PRIO_PROCESS, p),
            "scheduler": lambda p=pid: os.sched_getscheduler(p),
        }
        through += [f"{name} {pid}" for name, way in ways.items() if not held(way)]
    return through


async def raw_calls(numbers: dict):
    """Calls by number that are refused, not fatal."""
    return {name: errno.errorcode.get(call(number, 0, 0, 0, 0, 0), "worked") for name, number in numbers.items()}


async def outlive():
    """The end of the fork server: no signal then, no group, no session."""
    return {
        "prctl": errno.errorcode.get(call({"x86_64": 157, "aarch64": 167}[platform.machine()], 1, 0)),
        "setpgid": held(os.setpgid, 0, 0),
        "setsid": held(os.setsid),
    }
