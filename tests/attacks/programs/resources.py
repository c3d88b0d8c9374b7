"""Attempts to take more than one's share. Each tells how far it came."""

import ctypes
import mmap
import os
import platform
import re
import sys
import threading

from vllm_symphony import lip

sys.modules["vllm_symphony.runtime.advice"]._is_given = False  # it says early and in words what the layers below it hold


libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": {"vfork": 58, "clone": 56, "clone3": 435}, "aarch64": {"clone": 220, "clone3": 435}}[platform.machine()]
SIGCHLD = 17


async def fork_bomb():
    """fork, again and again."""
    refused = set()
    for _ in range(1000):
        try:
            if os.fork() == 0:
                os._exit(0)
        except OSError as e:
            refused.add(type(e).__name__)
    return sorted(refused)


async def raw_forks():
    """The same by all the calls that there are for it."""
    found = {}
    for name, number in NUMBERS.items():
        arguments = ctypes.create_string_buffer(bytes(32) + SIGCHLD.to_bytes(8, "little") + bytes(48))
        first = ctypes.addressof(arguments) if name == "clone3" else SIGCHLD
        second = 88 if name == "clone3" else 0
        result = libc.syscall(number, ctypes.c_void_p(first), ctypes.c_void_p(second), None, None, None)
        if result == 0:
            os._exit(0)
        found[name] = (result, ctypes.get_errno())
    return found


async def subprocesses():
    """A program of the machine."""
    import subprocess

    found = []
    for words in (["/bin/sh", "-c", "id"], [sys.executable, "-c", "1"]):
        try:
            subprocess.run(words, check=False)
            found.append("ran")
        except OSError as e:
            found.append(type(e).__name__)
    try:
        os.execv("/bin/sh", ["sh"])
    except OSError as e:
        found.append(type(e).__name__)
    return found


async def thread_bomb():
    """Threads that wait, as many as there can be."""
    stop, num = threading.Event(), 0
    try:
        while num < 500:
            threading.Thread(target=stop.wait, daemon=True).start()
            num += 1
    except RuntimeError:
        pass
    finally:
        stop.set()
    return num


async def spawn_bomb(depth: int = 0):
    """Children that have children."""
    refused, children = set(), []
    for _ in range(40):
        try:
            children.append(await lip.spawn(spawn_bomb, depth=depth + 1))
        except lip.SymphonyError as e:
            refused.add(e.reason)
            break
    counts = [await child.wait() for child in children]
    return [1 + sum(n for n, _ in counts), sorted(refused.union(*(r for _, r in counts)))]


async def heap():
    """Small objects without end."""
    held = []
    while True:
        held.append(bytearray(b"x" * 100_000))


async def mapped():
    """Pages that are asked for and touched."""
    held = []
    while True:
        held.append(mmap.mmap(-1, 1 << 22))
        held[-1].write(b"x" * (1 << 22))


async def big_integer():
    """One integer larger than the memory."""
    try:
        return (1 << (1 << 36)).bit_length()
    except (MemoryError, OverflowError) as e:
        return type(e).__name__


async def long_text():
    """One text larger than the memory."""
    try:
        return len("x" * (1 << 40))
    except MemoryError as e:
        return type(e).__name__


async def spin():
    """A loop of nothing."""
    while True:
        pass


async def spin_and_catch():
    """The same, deaf to everything that Python can say."""
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


async def spin_in_threads():
    """The same, in all threads that there can be."""

    def loop():
        while True:
            pass

    for _ in range(8):
        threading.Thread(target=loop, daemon=True).start()
    loop()


async def spin_in_c():
    """A regular expression that the interpreter cannot interrupt."""
    re.match(r"(a|aa)+$", "a" * 200 + "b")


async def power():
    """An integer that takes minutes."""
    return len(str(pow(7, 60_000_000)))


async def recursion():
    """Python's own limit."""

    def deeper(n):
        return deeper(n + 1)

    deeper(0)


async def deep_recursion():
    """Without Python's limit: the stack's."""
    sys.setrecursionlimit(10**9)
    text = "[" * 100_000 + "]" * 100_000
    nested = None
    for _ in range(200_000):
        nested = [nested]
    return len(repr(nested)) + len(text)


async def segfault():
    """A pointer to nowhere."""
    ctypes.string_at(1)


async def descriptors():
    """All descriptors; afterwards the machine can still be asked."""
    held = []
    try:
        while len(held) < 10_000:
            held += os.pipe()
    except OSError as e:
        error = e.errno
    num = len(held)
    for fd in held:
        os.close(fd)
    async with lip.open(tokens=[1, 2]) as file:
        await file.forward([3])
    return [num, error]


async def disk():
    """Files, where one might be made."""
    found = []
    for path in ("/tmp/x", "/dev/shm/x", "/var/tmp/x", "/x", "x", os.path.expanduser("~/x")):
        try:
            with open(path, "w") as file:
                file.write("x")
            found.append(path)
        except OSError:
            pass
    try:
        os.memfd_create("x")
        found.append("memfd")
    except OSError:
        pass
    return found


async def output():
    """A flood of output; the reader takes what its rate allows, the rest is told as lost."""
    for _ in range(2000):
        print("x" * 1000)
    return True


async def kv_pages():
    """More files than the cache has pages for, all held open."""
    held = []
    try:
        for _ in range(40):
            held.append(await lip.open(tokens=[1 + i % 200 for i in range(1000)]))
            await held[-1].forward()
    except lip.SymphonyError as e:
        return e.reason
    return "all fitted"
