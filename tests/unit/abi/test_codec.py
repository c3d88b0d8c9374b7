"""Frames: what goes in comes out, in any pieces; what is wrong is refused by its typed error, quickly."""

import contextlib
import dataclasses
import math
import time
import types
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony import errors
from vllm_symphony.abi import codec
from vllm_symphony.abi.calls import MAX_FRAME_BYTES, Forward, ForwardResult, Generate, GeneratePart, ReadResult
from vllm_symphony.abi.frame import FrameReader, frame
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials, Distribution, Grammar, Predicate, Sampler

pack = msgspec.msgpack.encode
FILL = {int: 3, str: "ü", bytes: b"\0\1", float: 0.5, bool: True}


def example(hint):
    """A value of that type with every field set."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return example(args[0])
    if origin is tuple:
        return (example(args[0]),) * 2
    if origin is dict:
        return {example(args[0]): example(args[1])}
    if hint is Predicate:
        return Predicate("and", parts=(Predicate("entropy", 1.0), Predicate("or", parts=(Predicate("after", 3.0),))))
    if dataclasses.is_dataclass(hint):
        return hint(**{name: example(h) for name, h in typing.get_type_hints(hint).items()})
    return FILL[hint]


def unframed(data):
    (body,) = FrameReader().feed(data)
    return body


def refused(op, args):
    with pytest.raises(errors.SymphonyError) as e:
        codec.read_args(codec.read_call(pack({"id": 1, "op": op, "a": args})))
    return e.value


@pytest.mark.parametrize("op", CALLS)
def test_every_call_result_and_part_survives_the_wire(op):
    spec, cred = CALLS[op], Credentials("ann", ("g",), ("admin",))

    call = codec.read_call(unframed(codec.call_frame(7, op, example(spec.args), 2, cred)))
    assert (call.id, call.op, call.tid, call.cred) == (7, op, 2, cred)
    assert codec.read_args(call) == example(spec.args)

    answer = codec.read_answer(unframed(codec.reply_frame(7, example(spec.result))))
    assert answer.id == 7 and codec.read_result(op, answer.ok) == example(spec.result)

    if spec.part is not None:
        answer = codec.read_answer(unframed(codec.part_frame(7, example(spec.part))))
        assert codec.read_part(op, answer.part) == example(spec.part)


@pytest.mark.parametrize("op", CALLS)
def test_every_call_refuses_an_unknown_field(op):
    error = refused(op, {"no_such_field": 1})

    assert isinstance(error, errors.InvalidArgument)
    assert error.message.startswith(f"{op}: ") and "no_such_field" in error.message


def test_left_out_fields_take_their_defaults():
    call = codec.read_call(pack({"id": 1, "op": "generate", "a": {"fd": 3}}))
    assert codec.read_args(call) == Generate(3)
    assert codec.read_args(codec.read_call(pack({"id": 1, "op": "ping"}))) is not None


def test_the_wire_format_is_as_documented():
    body = unframed(codec.call_frame(7, "close", CALLS["close"].args(3)))
    assert body == b"\x84\xa2id\x07\xa2op\xa5close\xa3tid\x00\xa1a\x81\xa2fd\x03"
    assert unframed(codec.signal_frame("TERM")) == b"\x81\xa6signal\xa4TERM"
    assert codec.call_frame(7, "close", CALLS["close"].args(3))[:4] == len(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("op", "args", "says"),
    [
        ("close", {}, "missing required field `fd`"),
        ("close", {"fd": "3"}, "expected `int`, got `str`"),
        ("close", {"fd": 3.5}, "expected `int`, got `float`"),
        ("close", {"fd": True}, "expected `int`"),
        ("close", {"fd": None}, "expected `int`"),
        ("close", [3], "expected `object`"),
        ("forward", {"fd": 1, "tokens": [1, 2]}, "expected `bytes`, got `array`"),
        ("forward", {"fd": 1, "tokens": "12"}, "expected `bytes`"),
        ("generate", {"fd": 1, "stop": "x"}, "expected `array`"),
        ("generate", {"fd": 1, "sampler": {"temprature": 1}}, "unknown field `temprature` - at `$.sampler`"),
        ("generate", {"fd": 1, "until": {"op": "and", "parts": [{"op": "after", "valu": 1}]}}, "`$.until.parts[0]`"),
        ("generate", {"fd": 1, "sampler": {"logit_bias": {"a": 1.0}}}, "expected `int`"),
        ("forward_many", {"items": [{"fd": 1}, {"fd": 1, "x": 2}]}, "`$.items[1]`"),
    ],
)
def test_wrong_arguments_are_einval_and_say_where(op, args, says):
    error = refused(op, args)

    assert isinstance(error, errors.InvalidArgument) and says in error.message


def test_an_unknown_call_is_enosys():
    assert isinstance(refused("frobnicate", {}), errors.NoSuchCall)
    assert isinstance(refused("__class__", {}), errors.NoSuchCall)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xc1", b"\x80", b"\x90", b"\x07", pack({"id": -1, "op": "ping"}), pack({"id": 2**60, "op": "ping"}),
        pack({"id": 1}), pack({"id": 1, "op": 3}), pack({"id": 1, "op": "x" * 65}), pack({"id": 1, "op": "ping", "zzz": 1}),
        pack({"id": 1, "op": "ping", "cred": {"groups": []}}), pack({"id": 1, "op": "ping"})[:-1],
        pack({"id": 1, "op": "ping"}) + b"\0", b"\x82\xa2id\x01\xa2op\xa2\xff\xfe", b"\x91" * 100_000, b"\x81\xa1a" * 100_000,
    ],
)  # fmt: skip
def test_a_malformed_envelope_is_einval(body):
    with pytest.raises(errors.InvalidArgument):
        codec.read_call(body)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body):
    for read in (lambda b: codec.read_args(codec.read_call(b)), codec.read_answer):
        with contextlib.suppress(errors.InvalidArgument, errors.NoSuchCall):
            read(body)


def test_bombs_are_refused_without_building_them():
    many = 8 << 20
    head = b"\x83\xa2id\x01\xa2op\xa8generate\xa1a\x82\xa2fd\x01\xa4stop"
    maps = head + b"\xdd" + many.to_bytes(4, "big") + b"\x80" * many
    start = time.process_time()

    with pytest.raises(errors.InvalidArgument, match="length <= 65536"):
        codec.read_args(codec.read_call(maps))
    with pytest.raises(errors.InvalidArgument):
        codec.read_args(codec.read_call(head + b"\x91" * many))
    with pytest.raises(errors.InvalidArgument):  # says that it has 4 billion elements
        codec.read_args(codec.read_call(head + b"\xdd\xff\xff\xff\xff"))

    assert time.process_time() - start < 1.0  # a hundred times what it takes


@given(st.lists(st.binary(max_size=60)), st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_whole_however_they_were_cut(bodies, sizes):
    stream = b"".join(frame(b) for b in bodies)
    reader, found, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1

    assert found == bodies and reader.is_empty


def test_a_frame_over_the_limit_is_refused_by_its_length_alone():
    reader = FrameReader()

    with pytest.raises(errors.InvalidArgument, match="104857600"):
        reader.feed((100 << 20).to_bytes(4, "little"))

    with pytest.raises(errors.InvalidArgument):
        frame(bytes(MAX_FRAME_BYTES + 1))
    assert len(FrameReader().feed(frame(bytes(MAX_FRAME_BYTES)))[0]) == MAX_FRAME_BYTES


def test_a_large_frame_in_small_pieces_costs_no_quadratic_time():
    data = codec.reply_frame(1, ReadResult(bytes(MAX_FRAME_BYTES - 100), b"", 0))
    reader, start = FrameReader(), time.process_time()

    frames = [f for i in range(0, len(data), 1 << 12) for f in reader.feed(data[i : i + (1 << 12)])]

    assert len(frames) == 1 and time.process_time() - start < 2.0


@pytest.mark.parametrize("cls", errors.ALL)
def test_errors_keep_class_message_values_and_retry(cls):
    sent = cls("no such thing: /a", retry_after_s=0.5, path="/a", count=3, ratio=0.5, sure=True)

    answer = codec.read_answer(unframed(codec.error_frame(9, sent)))
    got = codec.error_of(answer.err)

    assert answer.id == 9 and type(got) in (cls, errors.BY_REASON[cls.reason])
    assert (got.message, dict(got.values), got.retry_after_s) == (sent.message, dict(sent.values), 0.5)


def test_an_error_always_fits_whatever_it_quotes():
    sent = errors.InvalidArgument("not " + "\ud800x" * (16 << 20), name="\udfff" * (1 << 20))

    data = codec.error_frame(1, sent)

    assert len(data) < 1 << 16
    assert codec.error_of(codec.read_answer(unframed(data)).err).message.startswith("not \\ud800x")


def test_a_result_that_cannot_be_written_is_a_typed_error():
    with pytest.raises(errors.InvalidArgument, match="the limit is"):
        codec.reply_frame(1, ReadResult(bytes(MAX_FRAME_BYTES), b"", 0))
    with pytest.raises(errors.DataCorrupt):
        codec.reply_frame(1, CALLS["detokenize"].result("\ud800"))


def test_unknown_fields_of_an_answer_are_ignored_so_a_newer_server_may_add_some():
    body = pack({"id": 1, "ok": {"tokens": b"", "text": "x", "logprobs": b"", "new": 1}, "hint": "later"})

    assert codec.read_part("generate", codec.read_answer(body).ok) == GeneratePart(b"", "x")


def test_nan_and_infinity_survive():
    row = Distribution(1, b"", b"", -math.inf, math.nan)
    answer = codec.read_answer(unframed(codec.reply_frame(1, ForwardResult(1, (row,)))))

    (got,) = codec.read_result("forward", answer.ok).distributions
    assert got.logsumexp == -math.inf and math.isnan(got.entropy)


def test_what_cannot_be_sent_is_einval_at_the_caller():
    with pytest.raises(errors.InvalidArgument):
        codec.call_frame(1, "forward", Forward(2**70))
    with pytest.raises(errors.InvalidArgument):
        codec.call_frame(1, "emit", CALLS["emit"].args("\ud800"))
    with pytest.raises(errors.InvalidArgument):
        codec.call_frame(1, "emit", CALLS["emit"].args("x" * MAX_FRAME_BYTES))
    assert codec.call_frame(1, "generate", Generate(1, sampler=Sampler(logit_bias={3: 1.0}), grammar=Grammar("regex", "a+")))


def test_the_program_frame_carries_any_text():
    program = codec.Program("x = '\0é'\n" * 1000, "main", "{}", "p.py", 2**52)

    assert codec.read_answer(unframed(codec.program_frame(program))).program == program
