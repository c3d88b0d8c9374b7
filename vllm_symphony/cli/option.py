"""A program's options as argparse sees them (cli/option.py).

question: str               --question QUESTION          required
n: int = 4                  --n N                        default: 4
verbose: bool = False       --verbose, --no-verbose
tags: list[str] = []        --tags TAG --tags TAG
schema: dict | None = None  --schema JSON                JSON, a plain word, or @file
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_symphony.lip.program import Option


def _json(text: str) -> Any:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {e}") from None
    try:
        return json.loads(text)
    except ValueError as e:
        if text.lstrip()[:1] in tuple('{["'):
            raise argparse.ArgumentTypeError(f"no JSON: {e}") from None
        return text  # a plain word


_TYPES: Mapping[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "json": _json, "list[str]": str}
_PREFIX = "program."  # keeps a program's `file` apart from ours


def add_option(group: Any, option: Option) -> str:
    """Declare it in an argparse group; gives the attribute that its value lands in. Unset, the attribute is missing."""
    dest = _PREFIX + option.name
    words = list(dict.fromkeys((f"--{option.name.replace('_', '-')}", f"--{option.name}")))
    text = option.help if option.required else f"{option.help} (default: {_shown(option.default)})".strip()
    common = {"dest": dest, "required": option.required, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if option.type == "bool":
        group.add_argument(*words, action=argparse.BooleanOptionalAction, **common)
    elif option.type == "list[str]":
        group.add_argument(*words, action="append", metavar="TEXT", **common)
    else:
        metavar = "JSON" if option.type == "json" else option.name.upper()
        group.add_argument(*words, type=_TYPES[option.type], metavar=metavar, **common)
    return dest


def loose(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a program that declares none: --name=VALUE, --name VALUE, or --name for yes. What else there is is wrong
    usage."""
    given: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or len(name) == 2:
            parser.error(f"{name!r}: the program's arguments are given as --NAME=VALUE")
        if not equals and rest and not rest[0].startswith("--"):
            equals, value = "=", rest.pop(0)
        try:
            given[name[2:]] = _json(value) if equals else True
        except argparse.ArgumentTypeError as e:
            parser.error(f"{name}: {e}")
    return given


def _shown(default: Any) -> str:
    return "none" if default is None else default if isinstance(default, str) and default else json.dumps(default, default=str)
