"""symphony run: run a program at the server and show what it prints (cli/run.py).

    symphony run tot.py --depth 3 --json          words that the program declares are its arguments, the others are ours
    symphony run ops/triage@1.2 --task "..."      an installed program declares them by its schema: the server is asked
    symphony run filter.wasm --mode=upper < in    a module declares none: each --NAME=VALUE that is not ours is an argument

The options of a text are read without running it. Its output becomes ours (see output.py), our standard input its own unless that
is a terminal, the value that it returned is printed last, what it cost goes to stderr. Ctrl-C cancels it (TERM), a second one kills
it (see viewer.py). If we vanish (a closed terminal, kill -9) or are cut off it goes on: `symphony attach` finds it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm_symphony.abi import version
from vllm_symphony.abi.types import ProgramInfo
from vllm_symphony.cli import standard_input, viewer
from vllm_symphony.cli.command import server_arguments
from vllm_symphony.cli.limit import limit, limits_of
from vllm_symphony.cli.option import add_option, loose
from vllm_symphony.client.client import Client
from vllm_symphony.client.run import Program
from vllm_symphony.errors import AccessDenied
from vllm_symphony.lip.program import Option
from vllm_symphony.lip.program import parse as parse_program
from vllm_symphony.lip.schema import doc_of, options_of

EXAMPLE = 'symphony run examples/best_of_n.py --question "What is the capital of France?" --n 4'

_WITH_VALUE = (
    "--entry", "--name", "--limit", "--tool", "--runtime", "--server", "--socket", "--token-file", "--tls-ca", "--tls-cert",
    "--tls-key", "--timeout", "--wait",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "symphony run [options] PROGRAM [the program's options]"
    parser.add_argument(
        "file", metavar="PROGRAM", help="FILE.py, FILE.wasm or owner/name[@version]; with --help after it: its own options"
    )
    parser.add_argument("--entry", default="main", metavar="NAME", help="the function to call (default: main)")
    parser.add_argument("--name", metavar="NAME", help="what lists show (default: the program's name)")
    parser.add_argument("--limit", action="append", type=limit, metavar="NAME=VALUE", help="of it and all that it spawns, as "
                        "tokens=20k, wall=5m, cpu=30s, memory=512MiB; may be repeated (default: the server's)")  # fmt: skip
    parser.add_argument("--tool", action="append", default=[], metavar="GLOB", help="tools that it may call; may be repeated "
                        "(default: none; `symphony tools` lists them)")  # fmt: skip
    parser.add_argument("--runtime", default="", metavar="NAME", help="python, wasm or trusted (default: by what it is)")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="cancel it then, kill it if it does not end; exit code 124"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="print its pid and leave it running, without input")
    parser.add_argument("--no-input", action="store_true", help="do not pass our standard input on (a terminal never is)")
    viewer.arguments(parser)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Add the options of the program that the words name, then parse. Raises BadProgram."""
    parser.conflict_handler = "resolve"  # the program's option wins over one of ours with its name
    parser.set_defaults(**{action.dest: action.default for action in parser._actions if action.default is not argparse.SUPPRESS})
    if (file := _file_in(words)) is None:
        return parser.parse_args(words)  # says what is missing, or prints the help
    program = Program.of(file)
    if not program.installed:
        return _parse(parser, words, file, program, *_declared(program, _entry_in(words)))
    server = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    server_arguments(server)
    args, _ = server.parse_known_args(words)
    args.unparsed = parser, words, file, program  # which options it has is the server's to say
    return args


async def call(client: Client, args: argparse.Namespace) -> int:
    if hasattr(args, "unparsed"):
        parser, words, file, program = args.unparsed
        found = await _looked_up(client, program.installed)
        program = replace(program, installed=f"{found.name}@{found.version}")  # what is shown is what runs
        args = _parse(parser, words, file, program, found.description or doc_of(found.schema), options_of(found.schema))
    ask: dict[str, Any] = {"limits": limits_of(args.limit), "tools": args.tool}
    if args.detach:
        pid = await client.spawn(args.program, **ask)
        print(json.dumps({"pid": pid}) if args.json else pid, flush=True)
        return 0
    stdin = standard_input.pieces() if not args.no_input and standard_input.is_given() else None
    return await viewer.view(client, client.run(args.program, stdin=stdin, **ask), args, viewer.Interrupt.END, args.timeout)


async def _looked_up(client: Client, name: str) -> ProgramInfo:
    """What the server says of an installed program; of one that may be run but not read, what lists show."""
    try:
        return (await client.program(name)).program
    except AccessDenied:
        is_exact = "@" in name.rpartition("/")[2]
        listed = await client.programs(name if is_exact else f"{name}@*")
        found = next((p for p in listed if is_exact or not version.parse(p.version).is_prerelease), None)
        if found is None:
            raise
        return found


def _declared(program: Program, entry: str) -> tuple[str, Sequence[Option] | None]:
    """What a program says that it does, and its options; None where it does not say."""
    if program.code:
        return "", None
    declared = parse_program(program.source, entry)
    return declared.doc, declared.options


def _parse(
    parser: argparse.ArgumentParser, words: list[str], file: str, program: Program, doc: str, options: Sequence[Option] | None
) -> argparse.Namespace:
    """All words, now that the program's options are known."""
    parser.prog = f"symphony run {file}"
    parser.usage = f"symphony run {file} [options]"
    parser.description = doc or None
    parser.epilog = None
    group = parser.add_argument_group(
        "the program's options", None if options is not None else "any --NAME=VALUE: it declares none"
    )
    parser._action_groups.insert(0, parser._action_groups.pop())  # they come first in its help
    name_of = {add_option(group, option): option.name for option in options or ()}
    if options is None:
        args, rest = parser.parse_known_args(words)
        given = loose(parser, rest)
    else:
        args = parser.parse_args(words)
        given = {name_of[dest]: value for dest, value in vars(args).items() if dest in name_of}
    if args.detach and args.timeout is not None:
        parser.error("--timeout is kept by this command, and --detach ends it: give one of them")
    args.program = replace(program, entry=args.entry, name=args.name or program.name, runtime=args.runtime, args=given)
    args.program_args = given
    return args


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
        elif word == "-" or not word.startswith("-"):
            return word
    return None


def _entry_in(words: list[str]) -> str:
    for i, word in enumerate(words):
        if word == "--entry" and i + 1 < len(words):
            return words[i + 1]
        if word.startswith("--entry="):
            return word.partition("=")[2]
    return "main"
