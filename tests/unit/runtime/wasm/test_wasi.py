import time

import pytest

from tests.unit.runtime.wasm.guest import Guest, command
from vllm_symphony.abi.calls import Done, Sleep
from vllm_symphony.errors import Interrupted
from vllm_symphony.runtime.wasm.wasi import SIGNATURES

KINDS = {"i": "i32", "I": "i64"}


def wasi(name: str) -> str:
    """The import of a function of WASI as $name."""
    params = " ".join(KINDS[kind] for kind in SIGNATURES[name])
    result = "" if name == "proc_exit" else "(result i32)"
    return f'  (import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) {result}))'


def errno_of(name: str, *args: int, before: str = "") -> int:
    """What `name` gives for these arguments."""
    words = " ".join(f"({KINDS[kind]}.const {value})" for kind, value in zip(SIGNATURES[name], args, strict=True))
    return Guest().run(command(f"{before} (call $exit (call ${name} {words}))", more=wasi(name))).code


def test_a_guest_reads_its_input_to_the_end_and_copies_it():
    body = """
  (block (loop
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100))
    (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (br_if 1 (i32.eqz (i32.load (i32.const 8))))
    (call $print (i32.const 4096) (i32.load (i32.const 8)))
    (br 0)))
"""
    guest = Guest(stdin=b"line\n" * 1000)

    assert guest.run(command(body)).code == 0
    assert guest.out == "line\n" * 1000


def test_a_read_fills_several_buffers():
    body = """
  (i32.store (i32.const 16) (i32.const 4096)) (i32.store (i32.const 20) (i32.const 2))
  (i32.store (i32.const 24) (i32.const 5000)) (i32.store (i32.const 28) (i32.const 9))
  (drop (call $read (i32.const 0) (i32.const 16) (i32.const 2) (i32.const 32)))
  (call $print (i32.const 5000) (i32.sub (i32.load (i32.const 32)) (i32.const 2)))
"""
    guest = Guest(stdin=b"abcde")

    guest.run(command(body))

    assert guest.out == "cde"


def test_every_function_of_the_standard_links():
    more = "\n".join(wasi(name) for name in SIGNATURES if name not in ("fd_read", "fd_write", "proc_exit"))

    assert Guest().run(command("", more=more)).code == 0


@pytest.mark.parametrize("name", [n for n in SIGNATURES if n.startswith(("path_", "sock_", "fd_prestat"))])
def test_there_are_no_directories_and_no_sockets(name: str):
    assert errno_of(name, *[3] * len(SIGNATURES[name])) == 8  # EBADF


@pytest.mark.parametrize(("fd", "code"), [(0, 8), (3, 8), (-1, 8)])
def test_only_the_outputs_can_be_written(fd: int, code: int):
    assert (
        Guest().run(command(f"(call $exit (call $write (i32.const {fd}) (i32.const 0) (i32.const 0) (i32.const 8)))")).code == code
    )


def test_a_closed_output_stays_closed():
    close = "(drop (call $fd_close (i32.const 1)))"

    assert Guest().run(command(f"{close} (call $print (i32.const 0) (i32.const 1))", more=wasi("fd_close"))).code == 1


def test_outputs_cannot_be_sought_in():
    assert errno_of("fd_seek", 1, 0, 0, 0) == 70  # ESPIPE
    assert errno_of("fd_seek", 5, 0, 0, 0) == 8
    assert errno_of("fd_tell", 1, 0) == 70


def test_random_bytes_come_from_the_seed():
    body = "(drop (call $random_get (i32.const 4096) (i32.const 4))) (call $exit (i32.load8_u (i32.const 4096)))"
    wat = command(body, more=wasi("random_get"))

    draws = [Guest().run(wat, seed=seed).code for seed in (1, 1, 2, 3)]

    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    assert errno_of("random_get", 0, -1) == 28  # 4 GiB at once: EINVAL


def test_the_clock_is_the_machines():
    seconds = "(i32.wrap_i64 (i64.div_u (i64.load (i32.const 2048)) (i64.const 1000000000)))"
    body = f"""
  (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 2048)))
  (call $exit (i32.ge_u {seconds} (i32.const {time.time_ns() // 10**9})))
"""

    assert Guest().run(command(body, more=wasi("clock_time_get"))).code == 1
    assert errno_of("clock_time_get", 7, 1, 0) == 28


SLEEP = """
  (i32.store8 (i32.const 2056) (i32.const 0))
  (i32.store (i32.const 2064) (i32.const 1))
  (i64.store (i32.const 2072) (i64.const 2500000000))
  (call $exit (call $poll_oneoff (i32.const 2048) (i32.const 4096) (i32.const 1) (i32.const 8)))
"""


def test_a_sleep_is_the_call_sleep():
    guest = Guest()

    end = guest.run(command(SLEEP, more=wasi("poll_oneoff")))

    (op, args), *rest = guest.calls
    assert (end.code, op, rest) == (0, "sleep", [])
    assert isinstance(args, Sleep) and 2.0 < args.seconds <= 2.5


def test_a_sleep_that_fails_is_an_errno():
    def kernel(op: str, args: object) -> Done:
        raise Interrupted("cancelled")

    assert Guest(kernel).run(command(SLEEP, more=wasi("poll_oneoff"))).code == 29  # EIO


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_poll_takes_a_bounded_number_of_subscriptions(count: int):
    assert errno_of("poll_oneoff", 0, 0, count, 8) == 28


def test_poll_says_when_input_is_there():
    body = """
  (i64.store (i32.const 2048) (i64.const 77)) (i32.store8 (i32.const 2056) (i32.const 1)) (i32.store (i32.const 2064) (i32.const 0))
  (drop (call $poll_oneoff (i32.const 2048) (i32.const 4096) (i32.const 1) (i32.const 8)))
  (call $exit (i32.add (i32.load8_u (i32.const 4096)) (i32.load (i32.const 8))))
"""

    assert Guest(stdin=b"x").run(command(body, more=wasi("poll_oneoff"))).code == 78
