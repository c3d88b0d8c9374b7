"""Segment files: whole or not there, and never wrong in silence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vllm_symphony.errors import DataCorrupt, OutOfPages
from vllm_symphony.store import segment
from vllm_symphony.store.segment import (
    SegmentReader,
    SegmentWriter,
    hold,
    publish,
    read_header,
    read_pages,
    remove_leftovers,
    verify,
    write_segment,
)  # fmt: skip

PAGE = 5000


def page(i: int) -> bytes:
    return bytes((i * 7 + j) % 251 for j in range(PAGE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_segment(tmp_path, "a.seg", "f00d", [(page(i), 16 if i < 2 else 5) for i in range(3)])
    return tmp_path / "a.seg"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes((byte ^ 0x10,)))


def test_what_was_written_comes_back(path: Path) -> None:
    into = [bytearray(PAGE), bytearray(PAGE)]

    assert read_pages(path, [2, 0], into) == [5, 16]
    assert [bytes(b) for b in into] == [page(2), page(0)]
    header = read_header(path)
    assert (header.fingerprint, header.page_bytes) == ("f00d", PAGE)
    assert [n for n, _ in header.pages] == [16, 16, 5]
    assert verify(path) == {}
    assert [p.name for p in path.parent.iterdir()] == ["a.seg"]


def test_a_flipped_bit_in_a_page_is_found_and_harms_no_other_page(path: Path) -> None:
    flip(path, read_header(path).data_offset + PAGE + 123)

    with SegmentReader(path) as reader:
        assert reader.read(0, bytearray(PAGE)) == 16
        with pytest.raises(DataCorrupt, match=r"a\.seg, slot 1: checksum") as caught:
            reader.read(1, bytearray(PAGE))
    assert caught.value.values == {"segment": "a.seg", "slot": 1}
    assert list(verify(path)) == [1]


@pytest.mark.parametrize("offset", [0, 9, 13, 20, 30, 90, 130, 150])
def test_a_flipped_bit_anywhere_before_the_pages_is_found(path: Path, offset: int) -> None:
    flip(path, offset)

    with pytest.raises(DataCorrupt, match=r"a\.seg"):
        read_header(path)
    assert list(verify(path)) == [-1]


@pytest.mark.parametrize("size", [0, 7, 127, 140, 4096])
def test_a_segment_that_is_cut_off_is_found(path: Path, size: int) -> None:
    os.truncate(path, size)

    with pytest.raises(DataCorrupt, match=r"a\.seg"):
        read_pages(path, [0], [bytearray(PAGE)])
    assert verify(path)


def test_a_segment_that_is_gone_is_corrupt_data(path: Path) -> None:
    path.unlink()

    with pytest.raises(DataCorrupt, match=r"a\.seg: No such file"):
        read_header(path)


def test_a_slot_that_is_not_there_or_of_another_size_is_refused(path: Path) -> None:
    with pytest.raises(DataCorrupt, match="no slot 3"):
        read_pages(path, [3], [bytearray(PAGE)])
    with pytest.raises(DataCorrupt, match="of 12"):
        read_pages(path, [0], [bytearray(12)])


def test_a_write_that_stops_at_any_point_leaves_nothing_or_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    visible = {"page": False, "written": False, "synced": False, "renamed": True, "visible": True}
    for point, is_there in visible.items():

        def kill(at: str, point: str = point) -> None:
            if at == f"segment.{point}":
                raise Killed

        monkeypatch.setattr(segment, "hook", kill)
        writer = SegmentWriter(tmp_path, f"{point}.seg", "", PAGE, 1)
        with pytest.raises(Killed):
            write_whole(writer)
        if writer._fd >= 0:
            os.close(writer._fd)  # as the end of the process does
        assert (tmp_path / f"{point}.seg").exists() == is_there
        assert not is_there or verify(tmp_path / f"{point}.seg") == {}

    (tmp_path / "spill-1.seg").write_bytes(b"")
    assert remove_leftovers(tmp_path) == 4  # three that were not renamed, and what was only demoted
    assert sorted(p.name for p in tmp_path.iterdir()) == ["renamed.seg", "visible.seg"]


def write_whole(writer: SegmentWriter) -> None:
    writer.add(page(0), 1)
    writer.finish()


def test_a_full_disk_is_enospc_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = SegmentWriter(tmp_path, "a.seg", "", PAGE, 2)
    writer.add(page(0), 1)
    monkeypatch.setattr(os, "write", full)

    with pytest.raises(OutOfPages, match="the disk is full"):
        writer.add(page(1), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_eio(tmp_path: Path) -> None:
    with pytest.raises(DataCorrupt, match=r"cannot write .*nowhere/a\.seg"):
        SegmentWriter(tmp_path / "nowhere", "a.seg", "", PAGE, 1)


def test_an_abandoned_write_leaves_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "a.seg", "", PAGE, 1)
    writer.abandon()
    writer.abandon()

    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_is_held_outlives_its_removal_by_the_store(path: Path) -> None:
    held = hold(path.parent, path.name)
    path.unlink()

    assert held == hold(path.parent, held) == "spill-a.seg"
    assert verify(path.parent / held) == {}
    assert publish(path.parent, held) == publish(path.parent, "a.seg") == "a.seg"
    assert verify(path) == {}


def test_what_is_published_after_it_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataCorrupt, match=r"cannot write .*/a\.seg"):
        publish(tmp_path, "spill-a.seg")
