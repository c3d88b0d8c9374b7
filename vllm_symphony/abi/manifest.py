"""What a program says of itself (abi/manifest.py): the block of PEP 723 in its text, read without running it.

    # /// script
    # dependencies = ["numpy>=1.24"]              of the image that programs run in; nothing is installed for one
    # requires-python = ">=3.11"
    # [tool.symphony]
    # description = "Sorts tickets."
    # tools = ["web.*"]                           globs of the tools that it may call; without this line none
    # paths = ["/kb", "~/tickets"]                what files it may name; without this line any
    # priority = 2                                among its principal's own programs; 0 where it says nothing, higher goes first
    # limits = { tokens = 20000, wall_s = "5m", memory_bytes = "512MiB" }
    # ///

A manifest only takes away: who runs the program gives at most what it has itself. So nothing of it is ever guessed: an unknown key,
a block that is not closed (PEP 723 would pass over it) or one too many is BadProgram, with line and key. Reading takes time in
proportion to the text, for the block is short (`MAX_BLOCK`, `MAX_DOTS`).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from typing import Any

from vllm_symphony.abi import version
from vllm_symphony.abi.types import ResourceLimits
from vllm_symphony.abi.version import Clause, Requirement
from vllm_symphony.errors import BadProgram

MAX_BLOCK = 8 << 10  # characters
MAX_DOTS = 64  # in one line: tomllib takes a second for a key of thousands of parts
MAX_PRIORITY = 100
MAX_ITEMS, MAX_TEXT = 256, 1024  # of a list; characters of one string
_OPEN, _CLOSE = "# /// script", "# ///"
_ABI = re.compile(r"""^__abi__ *= *(["'])(\d{1,9}\.\d{1,9})\1""", re.MULTILINE)
_KEYS, _OURS = ("dependencies", "requires-python", "tool"), ("description", "limits", "paths", "priority", "tools")
_LIMITS = {field.name: str(field.type) for field in fields(ResourceLimits)}
_TIMES = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
_TIME = re.compile(rf"{_NUMBER} ?(ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(rf"{_NUMBER} ?([kmgt]?)i?b", re.ASCII | re.IGNORECASE)
_AT = re.compile(r" ?\(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a program declares. `tools`, `paths`: None where it says nothing of them."""

    dependencies: tuple[Requirement, ...] = ()
    requires_python: tuple[Clause, ...] = ()
    description: str = ""
    tools: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    limits: ResourceLimits = ResourceLimits()
    priority: int = 0


NONE = Manifest()


def abi_of(source: str) -> str:
    """`1.1` for a text with the line `__abi__ = "1.1"`; empty for one that does not say."""
    said = _ABI.search(source)
    return said[2] if said else ""


def read(source: str) -> Manifest:
    """What the text declares; `NONE` when it has no block.

    Raises:
        BadProgram: the text holds a NUL, or the block is no manifest; with line and key.
    """
    if (at := source.find("\0")) >= 0:
        line = source.count("\n", 0, at) + 1
        raise BadProgram(f"the program holds a NUL (line {line})", line=line)
    if _OPEN not in source:
        return NONE
    block = _block(source)
    return NONE if block is None else block.manifest()


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines between the marks, without their `#`; `line`: of the first one in the source."""

    lines: tuple[str, ...]
    line: int

    def manifest(self) -> Manifest:
        table = self._parsed()
        if unknown := table.keys() - set(_KEYS):
            raise self.wrong(min(unknown), f"is not known (PEP 723 has {', '.join(_KEYS)})")
        tool = table.get("tool", {})
        if not isinstance(tool, dict):
            raise self.wrong("tool", f"must be a table, not {_kind(tool)}")
        found = NONE
        if "symphony" in tool:
            found = self._ours(tool["symphony"])
        wanted = [self._requirement(text) for text in self.texts("dependencies", table.get("dependencies", []))]
        python = self.text("requires-python", table.get("requires-python", ""))
        try:
            return replace(found, dependencies=tuple(wanted), requires_python=version.specifier(python))
        except ValueError as error:
            raise self.wrong("requires-python", str(error)) from None

    def _ours(self, table: Any) -> Manifest:
        """Of `[tool.symphony]`: who has one says there which tools it needs."""
        if not isinstance(table, dict):
            raise self.wrong("tool.symphony", f"must be a table, not {_kind(table)}")
        if unknown := table.keys() - set(_OURS):
            raise self.wrong(min(unknown), f"of tool.symphony is not known (it has {', '.join(_OURS)})")
        paths = self.texts("paths", table["paths"]) if "paths" in table else None
        for path in paths or ():
            if not path.startswith("/") and path != "~" and not path.startswith("~/"):
                raise self.wrong("paths", f"must begin with / or ~/, not be {path!r}")
        return Manifest(
            description=self.text("description", table.get("description", "")),
            tools=self.texts("tools", table.get("tools", [])),
            paths=paths,
            limits=self._limits(table.get("limits", {})),
            priority=self._priority(table.get("priority", 0)),
        )

    def _parsed(self) -> dict[str, Any]:
        text = "\n".join(self.lines)
        if len(text) > MAX_BLOCK:
            raise BadProgram(f"the manifest (line {self.line}) has {len(text)} characters, the most is {MAX_BLOCK}", line=self.line)
        if deep := [i for i, line in enumerate(self.lines, self.line) if line.count(".") > MAX_DOTS]:
            raise BadProgram(f"the manifest has more than {MAX_DOTS} dots in line {deep[0]}: write it in several", line=deep[0])
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = _AT.search(str(error))
            line = self.line + (int(found[1]) - 1 if found else len(self.lines) - 1)
            raise BadProgram(f"the manifest is no TOML (line {line}): {_AT.sub('', str(error))}", line=line) from None
        except (RecursionError, ValueError) as error:  # brackets in brackets; a number of thousands of digits; a date that is none
            why = "too deep" if isinstance(error, RecursionError) else str(error)
            raise BadProgram(f"the manifest is no TOML (line {self.line}): {why}", line=self.line) from None

    # ---- values

    def wrong(self, key: str, why: str) -> BadProgram:
        """The error about a key; its line is where the key begins one, or else the block."""
        name = re.compile(rf"""\s*[\["']*(?:tool\.symphony\.)?(?:limits\.)?{re.escape(key)}["'\]]*\s*(?:=|$)""")
        at = next((i for i, text in enumerate(self.lines) if name.match(text)), None)
        if at is None:
            at = next((i for i, text in enumerate(self.lines) if key in text), 0)
        line = self.line + at
        return BadProgram(f"the manifest's {key[:MAX_TEXT]} {why} (line {line})", line=line, key=key[:MAX_TEXT])

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            what = f"text of {len(value)}" if isinstance(value, str) else _kind(value)
            raise self.wrong(key, f"must be a text of at most {MAX_TEXT} characters, not {what}")
        return value

    def texts(self, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            what = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
            raise self.wrong(key, f"must be a list of at most {MAX_ITEMS} texts, not {what}")
        if bad := [item for item in value if not isinstance(item, str) or not 0 < len(item) <= MAX_TEXT]:
            raise self.wrong(key, f"must hold texts of 1..{MAX_TEXT} characters only, not {_kind(bad[0])}")
        return tuple(value)

    def _requirement(self, text: str) -> Requirement:
        try:
            return version.requirement(text)
        except ValueError as error:
            raise self.wrong("dependencies", f"has {text[:64]!r}: {error}") from None

    def _priority(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_PRIORITY:
            raise self.wrong("priority", f"must be a whole number in -{MAX_PRIORITY}..{MAX_PRIORITY}, not {str(value)[:64]!r}")
        return value

    def _limits(self, table: Any) -> ResourceLimits:
        if not isinstance(table, dict):
            raise self.wrong("limits", f"must be a table, not {_kind(table)}")
        if unknown := table.keys() - _LIMITS.keys():
            raise self.wrong(min(unknown), f"is no limit (there are {', '.join(_LIMITS)})")
        given: dict[str, Any] = {key: self._limit(key, value) for key, value in table.items()}
        return ResourceLimits(**given)

    def _limit(self, key: str, value: Any) -> int | float:
        if isinstance(value, str) and key.endswith("_s") and key != "calls_per_s" and (found := _TIME.fullmatch(value)):
            value = float(found[1]) * _TIMES[found[2]]
        elif isinstance(value, str) and key.endswith("_bytes") and (found := _SIZE.fullmatch(value)):
            value = int(float(found[1]) * _SIZES[found[2].lower()])
        is_whole = "int" in _LIMITS[key]
        if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float) or not 0 <= value < 1 << 53:
            shapes = {"_s": ' or a time like "90s"', "_bytes": ' or a size like "512MiB"'}
            shape = next((words for end, words in shapes.items() if key.endswith(end) and key != "calls_per_s"), "")
            raise self.wrong(key, f"must be a{' whole' if is_whole else ''} number of 0 or more{shape}, not {str(value)[:64]!r}")
        return value if is_whole else float(value)


def _block(source: str) -> _Block | None:
    """The one block of type `script`. Raises BadProgram for two, and for one that is not closed."""
    lines = [line.removesuffix("\r") for line in source.split("\n")]
    starts = [i for i, line in enumerate(lines) if line == _OPEN]
    if not starts:
        return None
    first, end = starts[0], None
    at = first + 1
    while at < len(lines) and (lines[at] == "#" or lines[at].startswith("# ")):
        if lines[at] == _CLOSE:
            end = at
        at += 1
    if end is None:
        why = f"the manifest that begins in line {first + 1} is not closed: no line `# ///` comes before line {at + 1}"
        raise BadProgram(why, line=first + 1)
    if others := [i for i in starts if i > end]:
        raise BadProgram(f"a second manifest begins in line {others[0] + 1}: there may be one", line=others[0] + 1)
    return _Block(tuple(line[2:] for line in lines[first + 1 : end]), first + 2)


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")
