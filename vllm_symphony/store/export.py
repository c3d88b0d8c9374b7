"""One file, packed for another place or time (store/export.py).

    | "SYMPHKVF" | header length | header JSON | tokens | page 0 | page 1 | ... | sha256 of all before | HMAC-SHA256 of that |

The digest says whether it arrived whole; the HMAC, under the server's own key, whether its pages are what this server computed.
Whoever may make a file up may make its digest, so an unsigned one's pages are good only for who trusts where it comes from. Tokens,
positions and attributes are the importer's own anyway, and are checked by the kernel like any argument.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from vllm_symphony.abi.record import NodeRecord, SavedPage
from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import DataCorrupt, InvalidArgument, NoSuchFile, NotSupported
from vllm_symphony.store.segment import SegmentReader, SegmentWriter, no_room, pages_per_segment, sync_directory

MAGIC = b"SYMPHKVF"
VERSION = 1
MAX_HEADER_BYTES = 64 << 20  # positions and attributes of one file
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Packed:
    """What a spool file holds. `num_tokens` of each page; `has_pages`: they are there, `page_bytes` each."""

    node: NodeRecord
    page_tokens: tuple[int, ...]
    page_bytes: int
    data_offset: int
    signed: bool


class _Sealed:
    """Writes and digests at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes | bytearray) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.num_bytes += len(data)

    def seal(self, key: bytes) -> None:
        digest = self._digest.digest()
        self._file.write(digest + hmac.digest(key, digest, "sha256"))
        self.num_bytes += 2 * _DIGEST_BYTES


def pack(node: NodeRecord, pages: Path, spool: Path, name: str, key: bytes) -> int:
    """Write `node`, and its pages out of the segments in `pages`, to `spool`/`name`. Gives the size in bytes.

    Raises:
        DataCorrupt: a page's checksum is wrong, or the spool cannot be written.
        OutOfPages: the disk is full.
    """
    aside = spool / (name + ".tmp")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            out = _Sealed(file)
            _pack_into(out, node, pages)
            out.seal(key)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, spool / name)
        sync_directory(spool)
        return out.num_bytes
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise no_room(aside, error) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _pack_into(out: _Sealed, node: NodeRecord, pages: Path) -> None:
    saved = node.pages or ()
    readers: dict[str, SegmentReader] = {}
    try:
        for page in saved:
            if page.segment not in readers:
                readers[page.segment] = SegmentReader(pages / page.segment)
        page_bytes = readers[saved[0].segment].header.page_bytes if saved else 0
        header = json.dumps(_header(node, saved, page_bytes)).encode()
        out.write(MAGIC + _LENGTH.pack(len(header)) + header)
        out.write(node.tokens)
        buffer = bytearray(page_bytes)
        for page in saved:
            readers[page.segment].read(page.slot, buffer)
            out.write(buffer)
    finally:
        for reader in readers.values():
            reader.close()


def _header(node: NodeRecord, saved: tuple[SavedPage, ...], page_bytes: int) -> dict[str, Any]:
    return {
        "version": VERSION, "owner": node.owner, "created_ns": node.created_ns, "modified_ns": node.modified_ns,
        "length": node.length, "runs": node.runs, "fidelity": node.fidelity, "recipe": node.recipe.hex(),
        "xattrs": dict(node.xattrs), "fingerprint": node.fingerprint, "page_bytes": page_bytes,
        "pages": [page.num_tokens for page in saved],
    }  # fmt: skip


def unpack(path: Path, key: bytes) -> Packed:
    """What a spool file says, all of it checked against its digest; its node has no ino, no names and no pages yet.

    Raises:
        NoSuchFile: there is none.
        InvalidArgument: it is no exported file.
        NotSupported: it is of another version.
        DataCorrupt: it is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = _read_header(file, size)
            tokens = file.read(4 * _whole(header, "length"))
            data_offset = file.tell()
            signed = _check(file, size, key)
    except FileNotFoundError:
        raise NoSuchFile(f"no such spool file: {path.name}", spool=path.name) from None
    except OSError as error:
        raise DataCorrupt(f"spool file {path.name}: {error.strerror}") from error
    page_tokens = tuple(_list(header, "pages"))
    page_bytes = _whole(header, "page_bytes")
    if data_offset + len(page_tokens) * page_bytes + 2 * _DIGEST_BYTES != size or len(tokens) != 4 * header["length"]:
        raise InvalidArgument(f"spool file {path.name}: its header does not fit its size of {size} bytes")
    if not all(isinstance(n, int) and n > 0 for n in page_tokens) or sum(page_tokens) > header["length"]:
        raise InvalidArgument(f"spool file {path.name}: its pages hold more than its tokens")
    return Packed(_node(header, tokens), page_tokens, page_bytes, data_offset, signed)


def _read_header(file: IO[bytes], size: int) -> dict[str, Any]:
    name = Path(file.name).name
    start = file.read(len(MAGIC) + _LENGTH.size)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + _LENGTH.size:
        raise InvalidArgument(f"spool file {name} is no exported file: it begins with {start[:8]!r}")
    length = _LENGTH.unpack(start[len(MAGIC) :])[0]
    if length > min(size, MAX_HEADER_BYTES):
        raise InvalidArgument(f"spool file {name} says that its header has {length} bytes")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise InvalidArgument(f"spool file {name}: its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise InvalidArgument(f"spool file {name}: its header is no map")
    if (version := _whole(header, "version")) != VERSION:
        raise NotSupported(f"spool file {name} has version {version}, this server knows {VERSION}", version=version)
    return header


def _check(file: IO[bytes], size: int, key: bytes) -> bool:
    """Compare the digest. Gives whether we signed it."""
    digest = hashlib.sha256()
    file.seek(0)
    left = size - 2 * _DIGEST_BYTES
    while left > 0 and (data := file.read(min(left, 1 << 20))):
        digest.update(data)
        left -= len(data)
    stored, signature = file.read(_DIGEST_BYTES), file.read(_DIGEST_BYTES)
    if left or stored != digest.digest():
        raise DataCorrupt(f"spool file {Path(file.name).name} is damaged: its digest is wrong")
    return hmac.compare_digest(signature, hmac.digest(key, stored, "sha256"))


def _whole(header: dict[str, Any], name: str) -> int:
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise InvalidArgument(f"exported file: {name} is {value!r}")
    return value


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise InvalidArgument(f"exported file: {name} is {value!r}")
    return value


def _list(header: dict[str, Any], name: str) -> list[Any]:
    value = header.get(name)
    if not isinstance(value, list):
        raise InvalidArgument(f"exported file: {name} is {value!r}")
    return value


def _node(header: dict[str, Any], tokens: bytes) -> NodeRecord:
    runs, xattrs = _list(header, "runs"), header.get("xattrs")
    if not all(isinstance(run, list) and len(run) == 2 and all(isinstance(n, int) for n in run) for run in runs):
        raise InvalidArgument("exported file: its runs are no pairs of whole numbers")
    if not isinstance(xattrs, dict) or not all(isinstance(value, str) for value in xattrs.values()):
        raise InvalidArgument("exported file: its xattrs are no texts")
    try:
        recipe = bytes.fromhex(_text(header, "recipe"))
    except ValueError:
        raise InvalidArgument("exported file: its recipe is not hexadecimal") from None
    return NodeRecord(
        Ino(0), "file", _text(header, "owner"), "", 0, "", _whole(header, "created_ns"), _whole(header, "modified_ns"), (),
        length=_whole(header, "length"), tokens=tokens, runs=tuple((at, position) for at, position in runs),
        fidelity=_text(header, "fidelity"), recipe=recipe, xattrs=xattrs, pages=(), fingerprint=_text(header, "fingerprint"),
    )  # fmt: skip


def take_pages(path: Path, packed: Packed, pages: Path, name: Iterator[str]) -> NodeRecord:
    """Write the pages of an unpacked file to new segments in `pages`, named by `name`. Gives its node with them.

    Raises:
        OutOfPages: the disk is full.
        DataCorrupt: it cannot be read or written.
    """
    saved: list[SavedPage] = []
    per_segment = pages_per_segment(packed.page_bytes) if packed.page_bytes else 1
    try:
        with path.open("rb") as file:
            file.seek(packed.data_offset)
            for at in range(0, len(packed.page_tokens), per_segment):
                counts = packed.page_tokens[at : at + per_segment]
                segment = next(name)
                writer = SegmentWriter(pages, segment, packed.node.fingerprint, packed.page_bytes, len(counts))
                try:
                    for slot, num_tokens in enumerate(counts):
                        writer.add(file.read(packed.page_bytes), num_tokens)
                        saved.append(SavedPage(segment, slot, num_tokens))
                except BaseException:
                    writer.abandon()
                    raise
                writer.finish()
    except OSError as error:
        raise DataCorrupt(f"spool file {path.name}: {error.strerror}") from error
    return replace(packed.node, pages=tuple(saved))
