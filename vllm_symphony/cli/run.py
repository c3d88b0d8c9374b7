"""symphony run: run a program at the server and show what it prints (cli/run.py).

    symphony run tot.py --depth 3 --json        words that the program declares are its arguments, the others are ours

The program's options are read from its text, without running it. Its output becomes ours (see output.py), the value that it
returned is printed last, what it cost goes to stderr. Ctrl-C cancels it (TERM), a second one kills it; it ends when we vanish, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_symphony.abi.types import ProcessStat, Signal
from vllm_symphony.cli import output, table
from vllm_symphony.cli.command import EXIT_INTERRUPTED, complain
from vllm_symphony.cli.moment import duration
from vllm_symphony.cli.option import add_option
from vllm_symphony.client.client import Client
from vllm_symphony.client.run import Program, Run, RunResult
from vllm_symphony.errors import SymphonyError
from vllm_symphony.lip.program import parse as parse_program

EXAMPLE = 'symphony run examples/best_of_n.py --question "What is the capital of France?" --n 4'

_WITH_VALUE = (
    "--entry", "--name", "--server", "--socket", "--token-file", "--tls-ca", "--tls-cert", "--tls-key", "--wait",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "symphony run [options] FILE [the program's options]"
    parser.add_argument("file", metavar="FILE", help="the program, a Python file; FILE --help shows its options")
    parser.add_argument("--entry", default="main", metavar="NAME", help="the function to call (default: main)")
    parser.add_argument("--name", metavar="NAME", help="what lists show (default: the file's name)")
    parser.add_argument("--json", action="store_true", help="each event as a JSON line, the result as the last one")
    parser.add_argument("--stats", action="store_true", help="say on stderr what it cost, even where stderr is no terminal")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Add the options of the program that the words name, then parse. Raises BadProgram."""
    name_of: dict[str, str] = {}  # where the value of an option lands -> its name in the program
    program = None
    parser.conflict_handler = "resolve"  # the program's option wins over one of ours with its name
    parser.set_defaults(**{action.dest: action.default for action in parser._actions if action.default is not argparse.SUPPRESS})
    if (file := _file_in(words)) is not None:
        program = Program.of(Path(file))
        declared = parse_program(program.source, _entry_in(words))
        parser.prog = f"symphony run {file}"
        parser.usage = f"symphony run {file} [options]"
        parser.description = declared.doc or None
        parser.epilog = None
        group = parser.add_argument_group("the program's options")
        parser._action_groups.insert(0, parser._action_groups.pop())  # they come first in its help
        for option in declared.options:
            name_of[add_option(group, option)] = option.name
    args = parser.parse_args(words)
    assert program is not None, "argparse insists on FILE"
    args.program = Program(program.source, args.entry, args.name or program.name)
    args.program_args = {name_of[dest]: value for dest, value in vars(args).items() if dest in name_of}
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    run = client.run(args.program, **args.program_args)
    first, second = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: (second if first.is_set() else first).set())
    async with asyncio.TaskGroup() as tasks:
        obeying = tasks.create_task(_obey(client, run, first, second))
        outcome = await _watch(run, args)
        obeying.cancel()
    if isinstance(outcome, Exception):
        raise outcome
    return EXIT_INTERRUPTED if first.is_set() else outcome.exit.code


async def _watch(run: Run, args: argparse.Namespace) -> RunResult | Exception:
    """Show all of it. Errors are given, not raised: a task group would wrap them."""
    try:
        printed_error = False
        async for event in run:
            output.show(event, as_json=args.json)
            printed_error |= event.kind == "stderr"
        result = await run.result()
    except (SymphonyError, ConnectionError) as e:
        return e
    _show_result(result, args, printed_error=printed_error)
    return result


async def _obey(client: Client, run: Run, first: asyncio.Event, second: asyncio.Event) -> None:
    """Ctrl-C cancels, Ctrl-C again kills."""
    for press, remark, word in ((first, "cancelling (Ctrl-C again kills it)", Signal.TERM), (second, "killing it", Signal.KILL)):
        await press.wait()
        if run.pid is None:  # it did not even start: leaving is enough
            raise KeyboardInterrupt
        complain(remark)
        with suppress(SymphonyError):  # it may just have ended
            await client.kill(run.pid, word)


def _show_result(result: RunResult, args: argparse.Namespace, *, printed_error: bool) -> None:
    exit_, process = result.exit, result.process
    if args.json:
        table.line({"kind": "result", "pid": process.pid, "code": exit_.code, "reason": exit_.reason, "value": result.value,
                    "error": exit_.error, "stats": _stats(process)})  # fmt: skip
    elif result.value is not None:
        print(result.value if isinstance(result.value, str) else json.dumps(result.value), flush=True)
    if exit_.error and not printed_error and not args.json:
        complain(exit_.error)
    if args.stats or (sys.stderr.isatty() and not args.json):
        s = _stats(process)
        complain(
            f"process {process.pid} ({process.name or '-'}): exit {exit_.code} ({exit_.reason}) after {duration(s['seconds'])}; "
            f"{s['tokens_in']} tokens in, {s['tokens_out']} out, {s['num_steps']} steps, {s['num_calls']} calls, "
            f"device {duration(s['device_s'])}, cpu {duration(s['cpu_s'])}"
        )


def _stats(process: ProcessStat) -> dict[str, Any]:
    usage = process.usage
    return {
        "seconds": ((process.ended_ns or process.started_ns) - process.started_ns) / 1e9,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "num_calls": usage.num_calls,
        "num_forwards": usage.num_forwards,
        "num_steps": usage.num_steps,
        "device_s": usage.device_s,
        "cpu_s": usage.cpu_s,
    }


def _file_in(words: list[str]) -> str | None:
    """The first word that is no option and no option's value."""
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def _entry_in(words: list[str]) -> str:
    for i, word in enumerate(words):
        if word == "--entry" and i + 1 < len(words):
            return words[i + 1]
        if word.startswith("--entry="):
            return word.partition("=")[2]
    return "main"
