"""Packed files on their way through the edge."""

import asyncio
import stat

import pytest

from vllm_symphony.edge import spool as module
from vllm_symphony.edge.spool import Spool
from vllm_symphony.errors import ContextTooLong, DataCorrupt, InvalidArgument, NotSupported, OutOfPages, WouldBlock


async def pieces(*parts):
    for part in parts:
        yield part


async def received(spool, *parts, whose="me r1"):
    async with spool.received(pieces(*parts), whose) as name:
        return name, (spool.demand() / name).read_bytes(), stat.S_IMODE((spool.demand() / name).stat().st_mode)


def test_a_pack_is_put_together_privately_and_removed(tmp_path):
    spool = Spool(tmp_path / "spool")

    name, content, mode = asyncio.run(received(spool, b"abc", b"", b"def"))

    assert (content, mode) == (b"abcdef", 0o600)
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert "/" not in name and list((tmp_path / "spool").iterdir()) == []


def test_a_retry_has_the_same_name_and_another_request_another(tmp_path):
    spool = Spool(tmp_path)

    names = [asyncio.run(received(spool, b"x", whose=whose))[0] for whose in ("me r1", "me r1", "me r2", "you r1")]

    assert names[0] == names[1] and len(set(names)) == 3


@pytest.mark.parametrize(
    ("parts", "error"), [((), InvalidArgument), ((b"", b""), InvalidArgument), ((b"12345", b"678901"), ContextTooLong)]
)
def test_what_is_empty_or_too_large_is_refused_and_removed(tmp_path, parts, error):
    spool = Spool(tmp_path, max_import_bytes=10)

    with pytest.raises(error):
        asyncio.run(received(spool, *parts))

    assert list(tmp_path.iterdir()) == []


def test_the_same_one_twice_at_once_and_too_many_come_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMPORTS", 2)
    spool = Spool(tmp_path)

    async def main():
        async with spool.received(pieces(b"x"), "a"):
            with pytest.raises(WouldBlock, match="the same import"):
                await received(spool, b"x", whose="a")
            async with spool.received(pieces(b"x"), "b"):
                with pytest.raises(WouldBlock, match="2 files are coming in"):
                    await received(spool, b"x", whose="c")
        await received(spool, b"x", whose="c")

    asyncio.run(main())


def test_a_folder_that_cannot_be_made_is_no_room(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OutOfPages):
        asyncio.run(received(Spool(tmp_path / "file" / "spool"), b"x"))


def test_a_server_without_a_state_directory_has_no_packs():
    with pytest.raises(NotSupported):
        asyncio.run(received(Spool(None), b"x"))


def test_a_pack_is_sent_in_pieces_and_its_name_is_gone_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 4)
    (tmp_path / "x").write_bytes(b"abcdefghij")

    async def main():
        sent = Spool(tmp_path).sent("x")
        first = await anext(sent)
        assert list(tmp_path.iterdir()) == []
        return [first] + [piece async for piece in sent]

    assert asyncio.run(main()) == [b"abcd", b"efgh", b"ij"]


def test_a_pack_that_is_not_there_is_a_broken_promise(tmp_path):
    with pytest.raises(DataCorrupt, match="not in the spool"):
        asyncio.run(anext(Spool(tmp_path).sent("x")))
