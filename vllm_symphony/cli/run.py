"""symphony run: run a program at the server and show what it prints (cli/run.py).

    symphony run tot.py --depth 3 --json        words that the program declares are its arguments, the others are ours

The program's options are read from its text, without running it. Its output becomes ours (see output.py), the value that it
returned is printed last, what it cost goes to stderr. Ctrl-C cancels it (TERM), a second one kills it (see viewer.py). If we vanish
(a closed terminal, kill -9) or are cut off it goes on: `symphony attach` finds it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vllm_symphony.cli import viewer
from vllm_symphony.cli.option import add_option
from vllm_symphony.client.client import Client
from vllm_symphony.client.run import Program
from vllm_symphony.lip.program import parse as parse_program

EXAMPLE = 'symphony run examples/best_of_n.py --question "What is the capital of France?" --n 4'

_WITH_VALUE = (
    "--entry", "--name", "--server", "--socket", "--token-file", "--tls-ca", "--tls-cert", "--tls-key", "--timeout", "--wait",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "symphony run [options] FILE [the program's options]"
    parser.add_argument("file", metavar="FILE", help="the program, a Python file; FILE --help shows its options")
    parser.add_argument("--entry", default="main", metavar="NAME", help="the function to call (default: main)")
    parser.add_argument("--name", metavar="NAME", help="what lists show (default: the file's name)")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="cancel it then, kill it if it does not end; exit code 124"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="print its pid and leave it running")
    viewer.arguments(parser)


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
    if args.detach and args.timeout is not None:
        parser.error("--timeout is kept by this command, and --detach ends it: give one of them")
    args.program = Program(program.source, args.entry, args.name or program.name)
    args.program_args = {name_of[dest]: value for dest, value in vars(args).items() if dest in name_of}
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    if args.detach:
        pid = await client.spawn(args.program, **args.program_args)
        print(json.dumps({"pid": pid}) if args.json else pid, flush=True)
        return 0
    run = client.run(args.program, **args.program_args)
    return await viewer.view(client, run, args, viewer.Interrupt.END, args.timeout)


def _seconds(text: str) -> float:
    """Above zero; for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


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
