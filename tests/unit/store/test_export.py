"""Packed files: whole or refused, and signed by who made them."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.store.records import file
from vllm_symphony.abi.record import NodeRecord, SavedPage
from vllm_symphony.errors import DataCorrupt, InvalidArgument, NoSuchFile, NotSupported
from vllm_symphony.store import export
from vllm_symphony.store.segment import read_pages, write_segment

KEY, OTHER = b"k" * 32, b"o" * 32
PAGES = [(bytes([i]) * 100, 16 if i < 2 else 3) for i in range(3)]
NODE = dataclasses.replace(
    file(7, "book", list(range(35)), runs=((0, 0), (5, 50)), fidelity="pruned", recipe=b"\x00how", xattrs={"user.a": "b"}),
    pages=tuple(SavedPage("a.seg", slot, n) for slot, (_, n) in enumerate(PAGES)), fingerprint="f00d",
)  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Pages and spool."""
    for name in ("pages", "spool", "there"):
        (tmp_path / name).mkdir()
    write_segment(tmp_path / "pages", "a.seg", "f00d", PAGES)
    return tmp_path / "pages", tmp_path / "spool"


@pytest.fixture
def packed(folders: tuple[Path, Path]) -> Path:
    pages, spool = folders
    size = export.pack(NODE, pages, spool, "x.kv", KEY)
    assert (spool / "x.kv").stat().st_size == size and [path.name for path in spool.iterdir()] == ["x.kv"]
    return spool / "x.kv"


def test_what_is_packed_is_what_is_unpacked(packed: Path):
    found = export.unpack(packed, KEY)

    same = ("length", "tokens", "runs", "fidelity", "recipe", "xattrs", "fingerprint", "created_ns", "modified_ns", "owner")
    assert [getattr(found.node, name) for name in same] == [getattr(NODE, name) for name in same]
    assert (found.page_tokens, found.page_bytes, found.signed) == ((16, 16, 3), 100, True)
    assert found.node.ino == 0 and not found.node.names


def test_its_pages_become_segments_of_the_importer(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "pages_per_segment", lambda _: 2)

    node = export.take_pages(packed, export.unpack(packed, KEY), tmp_path / "there", iter(["i.seg", "j.seg"]))

    assert node.pages == (SavedPage("i.seg", 0, 16), SavedPage("i.seg", 1, 16), SavedPage("j.seg", 0, 3))
    buffers = [bytearray(100) for _ in range(3)]
    read_pages(tmp_path / "there" / "i.seg", [0, 1], buffers[:2])
    read_pages(tmp_path / "there" / "j.seg", [0], buffers[2:])
    assert buffers == [page for page, _ in PAGES]


def test_a_file_without_pages_needs_no_segments(folders: tuple[Path, Path]):
    pages, spool = folders
    export.pack(file(5, "f", [1, 2]), pages, spool, "t.kv", KEY)

    found = export.unpack(spool / "t.kv", KEY)

    assert found.node.length == 2 and found.page_tokens == ()


def test_what_another_server_signed_is_not_signed_by_us(packed: Path):
    assert not export.unpack(packed, OTHER).signed


def test_a_flipped_bit_anywhere_is_found(packed: Path):
    data = packed.read_bytes()
    for at in range(0, len(data) - 32, 7):  # the last 32 are the signature: it is another's then
        packed.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((DataCorrupt, InvalidArgument, NotSupported)):
            export.unpack(packed, KEY)


@pytest.mark.parametrize("length", [0, 5, 12, 60, 400, -1, -40])
def test_a_file_that_was_cut_off_is_refused(packed: Path, length: int):
    packed.write_bytes(packed.read_bytes()[:length])

    with pytest.raises((DataCorrupt, InvalidArgument)):
        export.unpack(packed, KEY)


def forged(change: Callable[[dict[str, object]], object], tokens: bytes = b"") -> bytes:
    """A packed file whose digest fits, signed with a key of one's own."""
    header = {
        "version": 1, "owner": "eve", "created_ns": 0, "modified_ns": 0, "length": len(tokens) // 4, "runs": [],
        "fidelity": "exact", "recipe": "", "xattrs": {}, "fingerprint": "", "page_bytes": 0, "pages": [],
    }  # fmt: skip
    change(header)
    text = json.dumps(header).encode()
    body = export.MAGIC + struct.pack("<I", len(text)) + text + tokens
    digest = hashlib.sha256(body).digest()
    return body + digest + hmac.digest(OTHER, digest, "sha256")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(length=5),
        lambda h: h.update(length=-1),
        lambda h: h.update(length="5"),
        lambda h: h.update(runs=[[0]]),
        lambda h: h.update(runs=[["a", "b"]]),
        lambda h: h.update(xattrs={"a": 1}),
        lambda h: h.update(recipe="xyz"),
        lambda h: h.update(pages=[16], page_bytes=10),
        lambda h: h.update(pages=[-1], page_bytes=0),
        lambda h: h.update(pages=[1], page_bytes=0),
        lambda h: h.update(fidelity=None),
        lambda h: h.pop("owner"),
    ],
)
def test_a_made_up_header_is_refused(change: Callable[[dict[str, object]], object], tmp_path: Path):
    (tmp_path / "x.kv").write_bytes(forged(change))

    with pytest.raises(InvalidArgument):
        export.unpack(tmp_path / "x.kv", KEY)


def test_a_made_up_file_that_is_whole_is_not_signed(tmp_path: Path):
    (tmp_path / "x.kv").write_bytes(forged(lambda _: None, b"\1\0\0\0"))

    assert not export.unpack(tmp_path / "x.kv", KEY).signed


def test_a_newer_version_is_told_from_a_damaged_file(tmp_path: Path):
    (tmp_path / "x.kv").write_bytes(forged(lambda h: h.update(version=2)))

    with pytest.raises(NotSupported, match="version 2, this server knows 1"):
        export.unpack(tmp_path / "x.kv", KEY)


def test_a_file_that_is_not_there_has_no_name(tmp_path: Path):
    with pytest.raises(NoSuchFile):
        export.unpack(tmp_path / "none.kv", KEY)


def test_a_damaged_page_is_not_packed_and_nothing_is_left(folders: tuple[Path, Path]):
    pages, spool = folders
    data = bytearray((pages / "a.seg").read_bytes())
    data[-5] ^= 1
    (pages / "a.seg").write_bytes(data)

    with pytest.raises(DataCorrupt, match="checksum"):
        export.pack(NODE, pages, spool, "x.kv", KEY)

    assert not list(spool.iterdir())


def test_a_record_of_nothing_is_packed_too(folders: tuple[Path, Path]):
    pages, spool = folders
    empty: NodeRecord = file(5, "f", [], runs=())

    export.pack(empty, pages, spool, "e.kv", KEY)

    assert export.unpack(spool / "e.kv", KEY).node.length == 0
