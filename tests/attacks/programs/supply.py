"""Attempts with what is brought along: archives, links, packages, sources."""

import io
import os
import stat
import sys
import tarfile
import zipfile

sys.modules["vllm_symphony.runtime.advice"]._is_given = False  # it says early and in words what the layers below it hold


def outcome(attempt) -> str:
    try:
        attempt()
    except (OSError, MemoryError, ImportError, ValueError, AttributeError) as e:
        return type(e).__name__
    return "went through"


async def zip_bomb():
    """A small archive that is large inside, unpacked into memory."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("zeros", "w") as entry:
        for _ in range(600):
            entry.write(bytes(1 << 20))
    with zipfile.ZipFile(packed) as archive:
        return len(archive.read("zeros"))


async def zip_slip():
    """Entries that climb out of where they are unpacked to, in zip and tar."""
    packed, rolled = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../../../tmp/slipped", "x")
    with tarfile.open(fileobj=rolled, mode="w") as archive:
        for name in ("../../../../tmp/slipped", "/tmp/slipped"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    rolled.seek(0)
    return [
        outcome(lambda: zipfile.ZipFile(packed).extractall("/tmp")),
        outcome(lambda: tarfile.open(fileobj=rolled).extractall("/tmp")),
        outcome(lambda: zipfile.ZipFile(packed).extractall(".")),
    ]


async def links():
    """Names that lead elsewhere."""
    library = os.path.dirname(os.__file__)
    found = []
    for target in ("/etc/passwd", "/proc/self/root", library):
        for name in ("/tmp/link", "/link", "link", os.path.join(library, "link")):
            found += [outcome(lambda t=target, n=name: os.symlink(t, n)), outcome(lambda t=target, n=name: os.link(t, n))]
    found.append(outcome(lambda: os.mknod("/dev/mine", 0o666 | stat.S_IFCHR, os.makedev(1, 1))))
    return sorted(set(found))


async def wheels():
    """Packages from nowhere: installed, put on the path, laid into the library."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("evil/__init__.py", "raise SystemExit('imported')")
    found = {}
    found["pip"] = outcome(lambda: __import__("pip"))
    found["ensurepip"] = outcome(lambda: __import__("ensurepip").bootstrap())
    found["write"] = outcome(lambda: open(os.path.join(os.path.dirname(os.__file__), "evil.py"), "w"))
    found["cache"] = outcome(lambda: open(os.path.join(os.path.dirname(os.__file__), "__pycache__", "os.cpython-311.pyc"), "r+b"))
    for path in ("/tmp/evil.whl", "evil.whl"):
        found[path] = outcome(lambda p=path: open(p, "wb").write(wheel.getvalue()))
    sys.path.insert(0, "/tmp")
    for name in ("grpc", "vllm", "torch", "requests", "evil", "vllm_symphony.kernel.kernel", "vllm_symphony.edge.token"):
        found[name] = outcome(lambda n=name: __import__(n))
    return found
