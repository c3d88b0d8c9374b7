"""Segment files: pages of keys and values on disk (store/segment.py).

    | header 128 B | (num_tokens, crc32) of each page | 0 ... | page 0 | page 1 | ...
                                                    4096-aligned

A segment is written once, aside (`.tmp`), synced, and renamed; then its folder is synced. So a file with its final name is whole,
and whatever else lies there is the rest of an interrupted write. The header has a checksum of its own and of the table; each page
has one, which every read compares. Nothing here knows what a page is about: its bytes are the engine's (`page_bytes` each), good
only under the fingerprint that the header names.

A running engine holds on to segments by names of its own, hard links that begin with `spill-`: what the store removes stays as long
as some file's pages are nowhere else. What is only demoted has no other name. At start all of them go (`remove_leftovers`).
Source: why write, fsync, rename, fsync of the folder: Pillai et al., "All file systems are not created equal" (OSDI '14).
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_symphony.errors import DataCorrupt, OutOfPages, SymphonyError

MAGIC = b"SYMPAGES"
VERSION = 1
MAX_SEGMENT_BYTES = 64 << 20
SUFFIX = ".seg"
SPILL = "spill-"  # what is demoted and belongs to no saved file; of no use to the next server

_HEADER = struct.Struct(
    "<8sIIQ64sI"
)  # magic, version, pages, page_bytes, fingerprint, crc32 of this with 0 in its place and the table
_ENTRY = struct.Struct("<II")  # num_tokens, crc32
_HEADER_BYTES = 128
READ_AHEAD = 1 << 20  # bytes of one piece of advice
_ALIGN = 4096

Buffer = bytes | bytearray | memoryview

hook: Callable[[str], None] = lambda point: None  # noqa: E731  called at each point of a write; crash tests end the process there


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself. `pages`: (num_tokens, crc32) of each slot."""

    fingerprint: str
    page_bytes: int
    pages: tuple[tuple[int, int], ...]

    @property
    def data_offset(self) -> int:
        return _data_offset(len(self.pages))

    def pack(self) -> bytes:
        table = b"".join(_ENTRY.pack(*p) for p in self.pages)
        fields = (MAGIC, VERSION, len(self.pages), self.page_bytes, self.fingerprint.encode())
        crc = zlib.crc32(table, zlib.crc32(_HEADER.pack(*fields, 0)))
        return (_HEADER.pack(*fields, crc).ljust(_HEADER_BYTES, b"\0") + table).ljust(self.data_offset, b"\0")


def _data_offset(num_pages: int) -> int:
    return -(-(_HEADER_BYTES + num_pages * _ENTRY.size) // _ALIGN) * _ALIGN


def pages_per_segment(page_bytes: int) -> int:
    return max(1, MAX_SEGMENT_BYTES // page_bytes)


def no_room(path: Path, error: OSError) -> SymphonyError:
    """What a failed write means to who asked for it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfPages(f"the disk is full: {path}: {error.strerror}")
    return DataCorrupt(f"cannot write {path}: {error.strerror}")


class SegmentWriter:
    """One segment being written: `add` its pages in order, then `finish`, or `abandon` what is there.

    Raises OutOfPages when the disk is full, DataCorrupt for other failures of it; then nothing is left.
    """

    def __init__(self, directory: Path, name: str, fingerprint: str, page_bytes: int, num_pages: int) -> None:
        self.path = directory / name
        self._aside = directory / (name + ".tmp")
        self._fingerprint, self._page_bytes, self._num_pages = fingerprint, page_bytes, num_pages
        self._pages: list[tuple[int, int]] = []
        self._fd = -1
        try:
            self._fd = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.lseek(self._fd, _data_offset(num_pages), os.SEEK_SET)
        except OSError as error:
            self.abandon()
            raise no_room(self.path, error) from error

    def add(self, page: Buffer, num_tokens: int) -> None:
        view = memoryview(page).cast("B")
        assert len(view) == self._page_bytes and len(self._pages) < self._num_pages
        self._pages.append((num_tokens, zlib.crc32(view)))
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.abandon()
            raise no_room(self.path, error) from error
        hook("segment.page")

    def finish(self, *, durable: bool = True) -> int:
        """Make it whole and visible; not `durable`: a power cut may lose it. Returns its size in bytes."""
        assert len(self._pages) == self._num_pages
        header = Header(self._fingerprint, self._page_bytes, tuple(self._pages)).pack()
        try:
            os.pwrite(self._fd, header, 0)
            hook("segment.written")
            if durable:
                os.fsync(self._fd)
            hook("segment.synced")
            size = os.fstat(self._fd).st_size
            os.close(self._fd)
            self._fd = -1
            os.rename(self._aside, self.path)
            hook("segment.renamed")
            if durable:
                sync_directory(self.path.parent)
            hook("segment.visible")
        except OSError as error:
            self.abandon()
            raise no_room(self.path, error) from error
        return size

    def abandon(self) -> None:
        """Leave nothing behind. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._aside.unlink(missing_ok=True)


def write_segment(directory: Path, name: str, fingerprint: str, pages: Sequence[tuple[Buffer, int]]) -> int:
    """Write a whole segment of (bytes, num_tokens); all pages are of one size. Returns its size in bytes."""
    writer = SegmentWriter(directory, name, fingerprint, memoryview(pages[0][0]).nbytes, len(pages))
    for page, num_tokens in pages:
        writer.add(page, num_tokens)
    return writer.finish()


class SegmentReader:
    """An open segment. Raises DataCorrupt when it is missing, cut off, or not what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataCorrupt(f"segment {path.name}: {error.strerror}", segment=path.name) from error
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def expect(self, slots: Sequence[int]) -> None:
        """Have the disk begin with what is read next, while checksums are compared."""
        begin, size = self.header.data_offset, self.header.page_bytes
        for slot in slots:
            for at in range(0, size, READ_AHEAD):  # of a longer range the system takes the beginning only
                os.posix_fadvise(self._fd, begin + slot * size + at, min(READ_AHEAD, size - at), os.POSIX_FADV_WILLNEED)

    def read(self, slot: int, into: Buffer) -> int:
        """Read a page into a buffer of `page_bytes` and compare its checksum. Returns of how many tokens it is."""
        header, view = self.header, memoryview(into).cast("B")
        name = self.path.name
        if not 0 <= slot < len(header.pages) or len(view) != header.page_bytes:
            raise DataCorrupt(
                f"segment {name} has {len(header.pages)} pages of {header.page_bytes} bytes: no slot {slot} of {len(view)}",
                segment=name,
                slot=slot,
            )
        self._read_at(view, header.data_offset + slot * header.page_bytes, f"slot {slot}")
        num_tokens, crc = header.pages[slot]
        if (found := zlib.crc32(view)) != crc:
            raise DataCorrupt(
                f"segment {name}, slot {slot}: checksum {found:08x} where {crc:08x} was written", segment=name, slot=slot
            )
        return num_tokens

    def _read_at(self, view: memoryview, offset: int, what: str) -> None:
        name = self.path.name
        try:
            while view:
                n = os.preadv(self._fd, [view], offset)
                if not n:
                    raise DataCorrupt(f"segment {name} is cut off in its {what}", segment=name)
                view, offset = view[n:], offset + n
        except OSError as error:
            raise DataCorrupt(f"segment {name}, {what}: {error.strerror}", segment=name) from error

    def _read_header(self) -> Header:
        name = self.path.name
        head = bytearray(_HEADER_BYTES)
        self._read_at(memoryview(head), 0, "header")
        magic, version, num_pages, page_bytes, fingerprint, crc = _HEADER.unpack_from(head)
        if magic != MAGIC or version != VERSION:
            raise DataCorrupt(f"segment {name} begins with {magic!r}, version {version}: not one of ours", segment=name)
        if num_pages * _ENTRY.size > os.fstat(self._fd).st_size:
            raise DataCorrupt(f"segment {name} says that it has {num_pages} pages", segment=name)
        table = bytearray(num_pages * _ENTRY.size)
        self._read_at(memoryview(table), _HEADER_BYTES, "table")
        fields = (magic, version, num_pages, page_bytes, fingerprint)
        if zlib.crc32(table, zlib.crc32(_HEADER.pack(*fields, 0))) != crc:
            raise DataCorrupt(f"segment {name}: the checksum of its header is wrong", segment=name)
        pages = tuple(_ENTRY.iter_unpack(bytes(table)))
        return Header(fingerprint.rstrip(b"\0").decode(), page_bytes, pages)


def read_header(path: Path) -> Header:
    """What a segment says of itself. Raises DataCorrupt."""
    with SegmentReader(path) as reader:
        return reader.header


def read_pages(path: Path, slots: Sequence[int], into: Sequence[Buffer]) -> list[int]:
    """Read pages into buffers, checksums compared. Returns of how many tokens each is. Raises DataCorrupt."""
    with SegmentReader(path) as reader:
        return [reader.read(slot, buffer) for slot, buffer in zip(slots, into, strict=True)]


def verify(path: Path) -> dict[int, str]:
    """What is wrong: slot -> message, -1 for the segment as a whole; empty when all is well."""
    try:
        reader = SegmentReader(path)
    except DataCorrupt as error:
        return {-1: error.message}
    wrong: dict[int, str] = {}
    with reader:
        buffer = bytearray(reader.header.page_bytes)
        for slot in range(len(reader.header.pages)):
            try:
                reader.read(slot, buffer)
            except DataCorrupt as error:
                wrong[slot] = error.message
    return wrong


def sync_directory(directory: Path) -> None:
    """Make renames and new names in it last."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def hold(directory: Path, name: str) -> str:
    """Give a segment of the store a name of the engine's own. Returns that; where there are no hard links, the store's."""
    if name.startswith(SPILL):
        return name
    try:
        os.link(directory / name, directory / (SPILL + name))
    except FileExistsError:
        return SPILL + name
    except OSError:
        return name
    return SPILL + name


def locate(directory: Path, held: str) -> Path:
    """Where a segment lies that `hold` gave a name."""
    path = directory / held
    return path if path.exists() else directory / held.removeprefix(SPILL)


def publish(directory: Path, held: str) -> str:
    """Make a segment that is held under the engine's name last, under its own. Returns that."""
    name = held.removeprefix(SPILL)
    if name == held or (directory / name).exists():
        return name
    try:
        fd = os.open(directory / held, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        hook("segment.synced")
        os.link(directory / held, directory / name)
        hook("segment.renamed")
        sync_directory(directory)
        hook("segment.visible")
    except OSError as error:
        raise no_room(directory / name, error) from error
    return name


def remove_leftovers(directory: Path) -> int:
    """At start: what an interrupted server left (`.tmp`) and what it had only demoted (`spill-`). Returns how many files."""
    gone = [p for p in directory.iterdir() if p.name.endswith(SUFFIX + ".tmp") or p.name.startswith(SPILL)]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
