"""Frames and chunks: what a reader puts together, and what it refuses to hold."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import count
from vllm_symphony.abi.calls import CHUNK_BYTES, MAX_FRAME_BYTES
from vllm_symphony.abi.frame import CHUNK, LAST, MAX_UNFINISHED, FrameReader, chunked_bytes, chunks, frame, pieces
from vllm_symphony.errors import InvalidArgument


def chunk(call_id: int, piece: bytes, *, last: bool = False) -> bytes:
    return struct.pack("<IQ", len(piece) + 8 | CHUNK | (LAST if last else 0), call_id) + piece


@settings(max_examples=count(100, 2000), deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_bodies_come_out_whole_and_in_order_however_the_stream_is_cut(bodies, data):
    stream = b"".join(frame(body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))

    reader, found = FrameReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])

    assert found == bodies
    assert reader.is_empty and reader.held_bytes == 0


@settings(max_examples=count(100, 2000), deadline=None)
@given(st.dictionaries(st.integers(0, 2**64 - 1), st.lists(st.binary(max_size=50), min_size=1, max_size=5), max_size=6), st.data())
def test_chunks_of_several_frames_come_in_any_order_between_the_ids(frames, data):
    left = {call_id: list(parts) for call_id, parts in frames.items()}
    reader, found = FrameReader(), []
    while left:
        call_id = data.draw(st.sampled_from(sorted(left)))
        parts = left[call_id]
        found += [(call_id, body) for body in reader.feed(chunk(call_id, parts.pop(0), last=not parts))]
        if not parts:
            del left[call_id]

    assert dict(found) == {call_id: b"".join(parts) for call_id, parts in frames.items()}
    assert reader.is_empty


def test_a_large_frame_travels_in_chunks_and_others_pass_between_them():
    large, small = frame(bytes(range(256)) * 1000), frame(b"small")
    reader, found = FrameReader(), []

    for piece in chunks(7, large):
        found += reader.feed(piece + small)

    assert found.count(b"small") == len(list(chunks(7, large)))
    assert max(found, key=len) == large[4:]
    assert sum(map(len, chunks(7, large))) == chunked_bytes(len(large))
    assert list(pieces(7, small)) == [small]


def test_the_same_id_may_be_used_again_once_its_frame_is_whole():
    reader = FrameReader()

    assert reader.feed(chunk(1, b"a") + chunk(1, b"b", last=True) + chunk(1, b"c", last=True)) == [b"ab", b"c"]


def test_a_frame_as_large_as_may_be_passes_and_one_byte_more_does_not():
    body = bytes(MAX_FRAME_BYTES)

    assert FrameReader().feed(frame(body)) == [body]
    with pytest.raises(InvalidArgument, match="the limit is"):
        frame(body + b"x")
    with pytest.raises(InvalidArgument, match="the limit is"):
        FrameReader().feed(struct.pack("<I", MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(LAST | 8, id="last without chunk"),
        pytest.param(CHUNK | 7, id="no room for the id"),
        pytest.param(CHUNK | LAST | 0, id="an empty chunk frame"),
        pytest.param(CHUNK | CHUNK_BYTES + 9, id="a chunk too large"),
        pytest.param(0xFFFFFFFF, id="all bits"),
    ],
)
def test_a_head_that_no_sender_writes_ends_the_stream(head):
    with pytest.raises(InvalidArgument):
        FrameReader().feed(struct.pack("<I", head) + bytes(64))


def test_a_truncated_frame_is_held_and_nothing_comes_out():
    reader = FrameReader()

    assert reader.feed(frame(b"x" * 100)[:-1]) == [] and reader.held_bytes == 103
    assert reader.feed(b"x") == [b"x" * 100] and reader.held_bytes == 0


def test_too_many_unfinished_frames_end_the_stream():
    reader = FrameReader()
    for call_id in range(MAX_UNFINISHED):
        assert reader.feed(chunk(call_id, b"")) == []

    with pytest.raises(InvalidArgument, match="unfinished"):
        reader.feed(chunk(MAX_UNFINISHED, b""))


def test_chunks_that_never_end_are_bounded_for_one_frame_and_for_all():
    one, all_ids = FrameReader(), FrameReader()

    def flood(reader: FrameReader, num_ids: int) -> None:
        for number in range(MAX_UNFINISHED * MAX_FRAME_BYTES // CHUNK_BYTES):
            reader.feed(chunk(number % num_ids, bytes(CHUNK_BYTES)))

    with pytest.raises(InvalidArgument, match="chunks of"):
        flood(one, 1)
    with pytest.raises(InvalidArgument, match="unfinished"):
        flood(all_ids, MAX_UNFINISHED)

    assert one.held_bytes <= MAX_FRAME_BYTES + 3 * CHUNK_BYTES
    assert all_ids.held_bytes <= 2 * MAX_FRAME_BYTES + 3 * CHUNK_BYTES


@settings(max_examples=count(200, 5000), deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=20))
def test_any_bytes_are_frames_or_an_error_and_never_anything_else(stream):
    reader = FrameReader()
    try:
        for data in stream:
            assert all(isinstance(body, bytes) for body in reader.feed(data))
    except InvalidArgument:
        pass
    assert reader.held_bytes <= 2 * sum(map(len, stream))
