"""Packed files at the client: whole or not there, from the beginning on each try."""

import asyncio
import os

import pytest

from vllm_symphony.client import packs
from vllm_symphony.client.call import Caller
from vllm_symphony.client.packs import Packs
from vllm_symphony.client.retry import Retry
from vllm_symphony.errors import AccessDenied, DataCorrupt, TimedOut, WouldBlock
from vllm_symphony.proto.v1 import file_pb2 as pb


class Stub:
    """A FileService that gives these pieces, or fails; `taken` is what each import brought."""

    def __init__(self, pieces=(), error=None, refuses=0):
        self.pieces, self.error, self.refuses, self.taken = pieces, error, refuses, []

    async def Export(self, request):
        for piece in self.pieces:
            yield pb.ExportResponse(num_bytes=sum(map(len, self.pieces)), data=piece)
        if isinstance(self.error, Exception):
            raise self.error
        if self.error == "hangs":
            await asyncio.Event().wait()

    async def Import(self, requests, timeout=None):
        self.taken.append([request async for request in requests])
        if len(self.taken) <= self.refuses:
            raise WouldBlock("come again")
        return pb.ImportResponse(file=pb.FileStat(path="/a", length=3), trusted=True)


def client_of(stub):
    client = Packs()
    client.target, client._file = "here", stub
    client._caller = Caller("here", Retry(tries=3, first_s=0.001, most_s=0.001))
    return client


def test_an_export_is_written_aside_and_gets_its_name_when_it_is_whole(tmp_path):
    seen = []

    def progress(done, of):
        seen.append((done, of, (tmp_path / "a").exists()))

    size = asyncio.run(client_of(Stub([b"abc", b"de"])).export_file("/a", tmp_path / "a", progress=progress))

    assert (size, (tmp_path / "a").read_bytes()) == (5, b"abcde")
    assert seen == [(3, 5, False), (5, 5, False)]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(("error", "timeout_s", "raised"), [(DataCorrupt("broken"), None, DataCorrupt), ("hangs", 0.01, TimedOut)])
def test_an_export_that_fails_leaves_what_was_there(tmp_path, error, timeout_s, raised):
    (tmp_path / "a").write_bytes(b"before")

    with pytest.raises(raised):
        asyncio.run(client_of(Stub([b"abc"], error)).export_file("/a", tmp_path / "a", timeout_s=timeout_s))

    assert (tmp_path / "a").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_each_try_of_an_import_begins_at_the_beginning_under_one_request_id(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "PIECE_BYTES", 4)
    (tmp_path / "a").write_bytes(b"abcdefghij")
    stub, seen = Stub(refuses=2), []

    result = asyncio.run(client_of(stub).import_file(tmp_path / "a", "/a", mode=0o644, progress=lambda *at: seen.append(at)))

    assert result.trusted and result.file.length == 3
    assert [b"".join(r.data for r in one) for one in stub.taken] == [b"abcdefghij"] * 3
    assert {(one[0].path, one[0].mode, one[0].request_id) for one in stub.taken} == {("/a", 0o644, stub.taken[0][0].request_id)}
    assert all(r.path == r.request_id == "" for one in stub.taken for r in one[1:])
    assert seen[:3] == [(4, 10), (8, 10), (10, 10)]


def test_an_empty_file_is_sent_for_the_server_to_say_what_is_wrong(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    stub = Stub()

    asyncio.run(client_of(stub).import_file(tmp_path / "a", "/a"))

    assert [(r.path, r.data) for r in stub.taken[0]] == [("/a", b"")]


def test_local_files_that_cannot_be_used_are_named(tmp_path):
    client = client_of(Stub([b"abc"]))

    with pytest.raises(AccessDenied, match="cannot read"):
        asyncio.run(client.import_file(tmp_path / "none", "/a"))
    with pytest.raises(AccessDenied, match="cannot write"):
        asyncio.run(client.export_file("/a", tmp_path / "none" / "a"))
