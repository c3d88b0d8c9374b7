"""Words and looks of what is about programs: limits, input, processes, messages."""

import argparse
import asyncio
import os
from dataclasses import replace

import pytest

from tests.unit.client.test_display import STAT
from vllm_symphony.abi.calls import RlimitResult
from vllm_symphony.abi.types import Message, ProcessEvent, ProgramInfo, ResourceLimits, Usage
from vllm_symphony.cli import letter, limits, output, programs, ps, run, standard_input, top
from vllm_symphony.cli.limit import NAMES, limit, limits_of, shown

S = 10**9


# ---- limits


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("tokens=1000", "tokens", 1000),
        ("tokens=20k", "tokens", 20_000),
        ("wall=5m", "wall_s", 300.0),
        ("wall_s=5", "wall_s", 5.0),
        ("memory=512MiB", "memory_bytes", 512 << 20),
        ("calls_per_s=2.5", "calls_per_s", 2.5),
        ("depth=0", "depth", 0),
        ("cpu=none", "cpu_s", -1),
    ],
)
def test_a_limit_has_a_short_name_and_a_unit(text, field, value):
    assert limit(text) == (field, value)


@pytest.mark.parametrize("text", ["tokens", "tokens=", "nothing=3", "wall=soon", "memory=much", "tokens=-1", "calls_per_s=5m"])
def test_what_is_no_limit_is_wrong_usage(text):
    with pytest.raises(argparse.ArgumentTypeError):
        limit(text)


def test_every_limit_of_the_abi_has_a_name():
    assert sorted(NAMES.values()) == sorted(ResourceLimits.__dataclass_fields__)


def test_the_last_one_of_a_name_counts_and_none_given_is_none():
    assert limits_of([limit("tokens=1"), limit("tokens=2"), limit("cpu=1s")]) == ResourceLimits(tokens=2, cpu_s=1.0)
    assert limits_of([]) is limits_of(None) is None


def test_limits_show_what_is_limited_or_used():
    found = RlimitResult(ResourceLimits(tokens=1000, wall_s=60.0), ResourceLimits(tokens=12, wall_s=1.5, tool_calls=3, cpu_s=0.0))

    assert [line.split() for line in limits.lines(found)] == [
        ["LIMIT", "USED", "OF"], ["tokens", "12", "1,000"], ["wall", "1.50s", "1m00s"], ["tool_calls", "3", "-"]
    ]  # fmt: skip
    assert shown("memory_bytes", 1 << 20) == "1.0 MiB"
    assert dict(ps.used_of(found.limits, found.used)) == {"tokens": "12/1,000", "wall": "1.50s/1m00s"}


# ---- input


def test_a_pipe_is_passed_on_piece_by_piece_and_nothing_is_no_input():
    async def gathered():
        reading, writing = os.pipe()
        pieces, taken = standard_input.pieces(reading), []
        os.write(writing, b"a")
        taken.append(await anext(pieces))
        os.write(writing, b"\x00\xff")
        taken.append(await anext(pieces))
        os.close(writing)
        taken += [piece async for piece in pieces]
        os.close(reading)
        return taken

    assert asyncio.run(gathered()) == [b"a", b"\x00\xff"]


def test_what_is_not_taken_is_not_read():
    async def left():
        reading, writing = os.pipe()
        pieces = standard_input.pieces(reading)
        os.write(writing, b"a")
        await anext(pieces)
        os.write(writing, b"b")
        await asyncio.sleep(0)
        await pieces.aclose()
        os.close(writing)
        rest = os.read(reading, 10)
        os.close(reading)
        return rest

    assert asyncio.run(left()) == b"b"


def test_a_file_is_passed_on_whole(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(bytes(200_000))

    async def size():
        fd = os.open(path, os.O_RDONLY)
        assert standard_input.is_given(fd)
        total = sum([len(piece) async for piece in standard_input.pieces(fd)])
        os.close(fd)
        return total

    assert asyncio.run(size()) == 200_000


def test_a_terminal_the_null_device_and_a_closed_input_are_none():
    main, side = os.openpty()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        assert not any(map(standard_input.is_given, (side, null)))
    finally:
        for fd in (main, side, null):
            os.close(fd)
    assert not standard_input.is_given(null)


# ---- words of run


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="symphony run", allow_abbrev=False)
    run.arguments(parser)
    return run.parse(parser, list(words))


def test_a_modules_arguments_are_what_is_not_ours(tmp_path):
    path = tmp_path / "filter.wasm"
    path.write_bytes(b"\0asm")

    args = parsed(str(path), "--mode=upper", "--n", "3", "--fast", "--json", "--limit", "tokens=5")

    assert (args.program.code, args.json, args.limit) == (b"\0asm", True, [("tokens", 5)])
    assert args.program.args == {"mode": "upper", "n": 3, "fast": True}


def test_a_word_too_many_for_a_module_is_wrong_usage(tmp_path, capsys):
    path = tmp_path / "filter.wasm"
    path.write_bytes(b"\0asm")

    with pytest.raises(SystemExit):
        parsed(str(path), "upper")

    assert "'upper': the program's arguments are given as --NAME=VALUE" in capsys.readouterr().err


def test_arguments_of_an_installed_program_wait_for_its_schema():
    args = parsed("ops/triage@1.2", "--task", "x", "--socket", "/s")

    assert args.socket == "/s"
    assert args.unparsed[1:3] == (["ops/triage@1.2", "--task", "x", "--socket", "/s"], "ops/triage@1.2")


# ---- looks


def test_rates_are_between_two_looks_and_since_the_start_in_the_first():
    then = replace(STAT, started_ns=0, usage=Usage(tokens_out=100, device_s=1.0))
    now = replace(then, usage=Usage(tokens_out=300, device_s=2.0))

    assert top.rated(now, None, 10 * S, 0).tokens_out == 30.0
    assert top.rated(now, then, 10 * S, 8 * S).tokens_out == 100.0
    assert top.rated(now, then, 10 * S, 8 * S).device == 0.5


def test_a_name_cannot_steer_the_terminal(capsys):
    programs.show([ProgramInfo("ops/\x1b[2J", "1", "o", "", 1, "wasm", "main", "\u202ex", "", 0)], programs.COLUMNS, as_json=False)

    out = capsys.readouterr().out
    assert "\x1b" not in out and r"ops/\x1b[2J@1" in out and r"\u202ex" in out


def test_what_a_program_prints_cannot_steer_a_terminal_but_goes_into_a_pipe_as_it_is(capsys, monkeypatch):
    event = ProcessEvent(1, 0, "stdout", "a\x1b[2Jb\n", 7)

    output.show(event, as_json=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.show(event, as_json=False)

    assert capsys.readouterr().out == "a\x1b[2Jb\na\\x1b[2Jb\n"


def test_a_message_is_text_on_a_terminal_and_bytes_elsewhere(capfdbinary, monkeypatch):
    message = Message(1, b"\xff\x1b", 7, "me", missing=2)

    letter.show(message, as_json=False)
    letter.show(message, as_json=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    letter.show(message, as_json=False)

    out, err = capfdbinary.readouterr()
    assert out.splitlines() == [
        b"\xff\x1b", b'{"seq": 1, "base64": "/xs=", "pid": 7, "principal": "me", "missing": 2}', rb"\xff\x1b"
    ]  # fmt: skip
    assert err == b"symphony: 2 messages were dropped here\n" * 2
