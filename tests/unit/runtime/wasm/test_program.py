import json
import threading

import pytest

from tests.unit.runtime.wasm.guest import Guest, asking, command
from vllm_symphony.abi.calls import Done, PidResult, Sleep, TokensResult
from vllm_symphony.abi.types import pack_tokens
from vllm_symphony.errors import NoSuchFile

LOOP = "(loop (br 0))"


def test_a_module_calls_the_kernel_and_prints_the_answer():
    guest = Guest(lambda op, args: PidResult(7))

    end = guest.run(asking({"op": "getpid"}))

    assert (end.code, end.reason) == (0, "exit")
    assert json.loads(guest.out) == {"ok": {"pid": 7}}


def test_tokens_are_lists_of_numbers_for_the_guest():
    guest = Guest(lambda op, args: TokensResult(pack_tokens([5, 70_000])))

    guest.run(asking({"op": "tokenize", "args": {"text": "lamp"}}))

    assert guest.calls[0][1].text == "lamp"
    assert json.loads(guest.out) == {"ok": {"tokens": [5, 70_000]}}


def test_the_error_of_a_call_is_an_answer_with_its_values():
    def kernel(op: str, args: object) -> None:
        raise NoSuchFile("no such file: /kb", path="/kb")

    guest = Guest(kernel)

    end = guest.run(asking({"op": "open", "args": {"path": "/kb"}}))

    assert end.code == 0
    assert json.loads(guest.out) == {"err": {"reason": "ENOENT", "message": "no such file: /kb", "values": {"path": "/kb"}}}


@pytest.mark.parametrize(
    ("body", "code"),
    [("", 0), ("(call $exit (i32.const 0))", 0), ("(call $exit (i32.const 3))", 3), ("(call $exit (i32.const -1))", 255)],
)
def test_the_exit_code_is_that_of_proc_exit_or_0(body: str, code: int):
    assert Guest().run(command(body)).code == code


def test_the_call_exit_gives_the_program_a_value_and_does_not_return():
    text = json.dumps({"op": "exit", "args": {"code": 4, "value": '{"answer": 42}'}})
    guest = Guest()

    end = guest.run(command(f"(drop (call $call (i32.const 1024) (i32.const {len(text)}))) unreachable", data=text))

    assert (end.code, end.value, guest.calls) == (4, '{"answer": 42}', [])


def test_a_trap_is_exit_1_with_a_backtrace_on_stderr(capsys: pytest.CaptureFixture[str]):
    end = Guest().run(command("(call $broken)", more="(func $broken unreachable)"))

    assert (end.code, end.reason) == (1, "exception")
    assert end.error == "wasm trap: wasm `unreachable` instruction executed"
    said = capsys.readouterr().err
    assert said.startswith(f"guest.wasm: {end.error}\n")
    assert "broken" in said


@pytest.mark.parametrize("where", ["_start", "start function"])
def test_term_ends_a_guest_that_spins(where: str):
    guest = Guest()
    spin = f'(module (func $f {LOOP}) (func (export "_start") {"" if where != "_start" else "call $f"})'
    timer = threading.Timer(0.05, guest.term)
    timer.start()

    end = guest.run(f"{spin} {'(start $f)' if where != '_start' else ''})")

    timer.join()
    assert (end.code, end.reason) == (130, "cancelled")


def test_term_ends_a_guest_that_waits_for_a_call():
    guest = Guest(lambda op, args: guest.term())

    end = guest.run(asking({"op": "sleep", "args": {"seconds": 1e6}}))

    assert (end.code, guest.calls) == (130, [("sleep", Sleep(1e6))])


def test_term_ends_a_guest_that_waits_for_its_input():
    guest = Guest(lambda op, args: guest.term() or Done(), stdin=None)
    text = '{"op": "ping"}'
    wait = "(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))"

    end = guest.run(command(f"(call $ask (i32.const 1024) (i32.const {len(text)})) (loop {wait} (br 0))", data=text))

    assert end.code == 130


def test_a_kernel_that_is_gone_is_an_error_of_every_call():
    guest = Guest(lambda op, args: guest.hang_up())

    end = guest.run(asking({"op": "getpid"}))

    assert end.code == 0
    assert json.loads(guest.out)["err"]["reason"] == "ENODEV"


def test_arguments_are_words_of_the_command_line_and_json_in_the_environment():
    words = """
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
"""
    body = """
  (drop (call $args_sizes (i32.const 16) (i32.const 20))) (drop (call $args (i32.const 64) (i32.const 4096)))
  (call $print (i32.const 4096) (i32.load (i32.const 20)))
  (drop (call $env_sizes (i32.const 16) (i32.const 20))) (drop (call $env (i32.const 64) (i32.const 4096)))
  (call $print (i32.const 4096) (i32.load (i32.const 20)))
"""
    args = {"question": "why é?", "n": 3, "deep": {"a": [None]}}
    guest = Guest()

    guest.run(command(body, more=words), args=json.dumps(args))

    *words_seen, env, end = guest.out.split("\0")
    assert words_seen == ["guest.wasm", "--question=why é?", "--n=3", '--deep={"a": [null]}']
    assert (env.partition("=")[0], json.loads(env.partition("=")[2]), end) == ("SYMPHONY_ARGS", args, "")


@pytest.mark.parametrize("which", ["symphony-transport", "symphony-compiler"])
def test_a_process_that_may_have_no_more_threads_says_so(which: str, monkeypatch: pytest.MonkeyPatch):
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == which:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    end = Guest().run(command(""))

    assert end.code == 1
    assert end.error is not None and "EDQUOT: cannot start a thread: a wasm program needs 3 tasks" in end.error


def test_arguments_that_are_no_object_are_refused():
    end = Guest().run(command(""), args="[1]")

    assert (end.code, end.reason, end.error) == (2, "program", "arguments are no JSON object but list")


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (b"hello", "no core module of WebAssembly 1"),
        (b"\0asm\x0d\0\1\0", "components are not taken"),
        (b"\0asm\1\0\0\0\x0a\xff\xff\xff", "ends in the middle of a section"),
        (b"\0asm\1\0\0\0\x01\x02\x01", "does not compile: failed to parse"),
        (b"\0asm\1\0\0\0", "exports no function _start"),
        ('(module (import "env" "socket" (func)) (func (export "_start")))', "imports env.socket: there are symphony.call"),
        ('(module (import "symphony" "call" (func)) (func (export "_start")))', "cannot be instantiated: incompatible import type"),
        ('(module (import "symphony" "call" (memory 1)) (func (export "_start")))', "cannot be instantiated: incompatible import"),
        ('(module (memory (export "_start") 1))', "exports no function _start"),
        ('(module (func (export "_start") (param i32)))', "takes arguments"),
    ],
)
def test_what_cannot_run_is_a_bad_program_that_says_why(module: str | bytes, complaint: str, capsys: pytest.CaptureFixture[str]):
    end = Guest().run(module)

    assert (end.code, end.reason) == (2, "program")
    assert end.error is not None and complaint in end.error
    assert complaint in capsys.readouterr().err
