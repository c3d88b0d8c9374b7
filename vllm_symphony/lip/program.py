"""A program's face (lip/program.py): what its `main` takes, read from the text without running it, and arguments made to fit.

    abi_of(source)              the ABI that the text says it was written for (abi/manifest.py)
    parse(source)               name, docstring, options: what `symphony run FILE --help` shows. Pure `ast`, runs nothing.
    bind_arguments(fn, args)    a JSON object against the real signature, in the child, before `main` runs

Help texts come from a Google-style `Args:` section of the docstring. All parameters must be callable by keyword.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vllm_symphony.abi.manifest import abi_of as abi_of
from vllm_symphony.errors import BadProgram

OptionType = Literal["str", "int", "float", "bool", "list[str]", "json"]


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter of `main`. `type` is `json` for what no other fits; `default` is a plain value, or source text if it is none."""

    name: str
    type: OptionType
    default: Any
    required: bool
    nullable: bool = False
    help: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """What a source text declares. `summary`: the first paragraph of `main`'s docstring, else of the module's; `doc`: all of it."""

    entry: str
    summary: str
    doc: str
    options: tuple[Option, ...]


def parse(source: str, entry: str = "main") -> Program:
    """Read the signature of `entry`.

    Raises:
        BadProgram: the text is no Python, has no top-level function of that name, or a parameter cannot be given by keyword.
    """
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        where = f" (line {e.lineno})" if isinstance(e, SyntaxError) else ""
        raise BadProgram(f"the program does not parse: {getattr(e, 'msg', e)}{where}") from None
    functions = [n for n in module.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == entry]
    if not functions:
        raise BadProgram(f"the program has no function {entry}: `async def {entry}(...)` at the top level is what runs")
    function = functions[-1]  # as in Python, the last definition counts
    a = function.args
    if a.vararg or a.kwarg or a.posonlyargs:
        raise BadProgram(f"{entry} (line {function.lineno}) must take its arguments by name: no *args, **kwargs or /")
    doc = ast.get_docstring(function) or ast.get_docstring(module) or ""
    text, help_of = _split_doc(doc)
    defaults: list[ast.expr | None] = [None] * (len(a.args) - len(a.defaults)) + list(a.defaults)
    parameters = [*zip(a.args, defaults, strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    constants = {
        target.id: n.value for n in module.body if isinstance(n, ast.Assign) for target in n.targets if isinstance(target, ast.Name)
    }
    options = tuple(_option(arg, default, constants, help_of.get(arg.arg, "")) for arg, default in parameters)
    return Program(entry, text.split("\n\n")[0].replace("\n", " "), text, options)


def bind_arguments(fn: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `fn` out of a JSON object.

    A whole number passes for a float, and 3.0 for an int; nothing else is converted.

    Raises:
        BadProgram: an argument is missing, unknown or of another type; the message names all that are missing or unknown.
    """
    name = getattr(fn, "__name__", "main")
    parameters = inspect.signature(fn).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(p.kind not in by_name for p in parameters.values()):
        raise BadProgram(f"{name} must take its arguments by name: no *args, **kwargs or /")
    if unknown := [n for n in args if n not in parameters]:
        raise BadProgram(f"{name} takes no {', '.join(unknown)} (it takes: {', '.join(parameters) or 'nothing'})")
    if missing := [n for n, p in parameters.items() if p.default is p.empty and n not in args]:
        raise BadProgram(f"{name} needs {', '.join(missing)}")
    hints = _hints(fn)
    return {n: _fit(value, hints.get(n, Any), f"{name}: {n}") for n, value in args.items()}


# ---- reading


def _option(arg: ast.arg, default: ast.expr | None, constants: Mapping[str, ast.expr], help_text: str) -> Option:
    value: Any = None
    if default is not None:
        known = constants.get(default.id, default) if isinstance(default, ast.Name) else default
        try:
            value = ast.literal_eval(known)
        except ValueError:
            value = ast.unparse(default)
    kind, nullable = _type_of(arg.annotation, value)
    return Option(arg.arg, kind, value, default is None, nullable or (default is not None and value is None), help_text)


def _type_of(annotation: ast.expr | None, default: Any) -> tuple[OptionType, bool]:
    if annotation is None:
        kinds: dict[type, OptionType] = {bool: "bool", int: "int", float: "float"}
        return kinds.get(type(default), "str"), False
    text = ast.unparse(annotation)
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        text = annotation.value  # quoted
    text = re.sub(r"\s|\btyping\.", "", text)
    if optional := re.fullmatch(r"Optional\[(.*)\]", text):
        text = f"{optional[1]}|None"
    parts = text.split("|")
    nullable = "None" in parts
    text = "|".join(p for p in parts if p != "None")
    plain: dict[str, OptionType] = {
        "str": "str", "int": "int", "float": "float", "bool": "bool",
        "list[str]": "list[str]", "List[str]": "list[str]", "Sequence[str]": "list[str]",
    }  # fmt: skip
    return plain.get(text, "json"), nullable


def _split_doc(doc: str) -> tuple[str, dict[str, str]]:
    """The docstring without its `Args:` section, and the help of each name in it."""
    head, _, rest = doc.partition("\nArgs:\n")
    help_of: dict[str, str] = {}
    lines = rest.split("\n")
    name, indent = "", 0
    for i, line in enumerate(lines):
        stripped = line.strip()
        if stripped and not line.startswith(" "):
            return f"{head}\n{chr(10).join(lines[i:])}".strip(), help_of
        depth = len(line) - len(line.lstrip())
        found = re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", stripped)
        if found and (not name or depth <= indent):
            name, indent = found[1], depth
            help_of[name] = found[2]
        elif stripped and name:
            help_of[name] = f"{help_of[name]} {stripped}".strip()
    return head.strip(), help_of


# ---- fitting


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}  # annotations that mean nothing at run time ask for nothing


def _fit(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint` wants it, or BadProgram."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        for part in sorted(inner, key=lambda t: t is not type(value)):  # its own type first
            try:
                return _fit(value, part, where)
            except BadProgram:
                continue
        raise BadProgram(f"{where} must be {_show(hint)}, not {_show_value(value)}")
    if origin is typing.Literal:
        if not any(value == v and type(value) is type(v) for v in inner):
            raise BadProgram(f"{where} must be one of {', '.join(map(repr, inner))}, not {_show_value(value)}")
        return value
    if origin is typing.Annotated:
        return _fit(value, inner[0], where)
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    wanted = type(None) if hint is None else (origin or hint)
    if wanted not in (str, int, float, bool, list, dict, type(None)):
        return value
    if type(value) is not wanted:
        raise BadProgram(f"{where} must be {_show(hint)}, not {_show_value(value)}")
    if isinstance(value, list) and inner:
        return [_fit(v, inner[0], f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, dict) and inner:
        return {k: _fit(v, inner[1], f"{where}[{k!r}]") for k, v in value.items()}
    return value


def _show(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _show_value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
