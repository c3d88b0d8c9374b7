"""The event log as a file (trace/file.py): JSON lines, told in docs/tracing.md.

    {"format": "symphony-event-log", "version": 1, "abi": "1.1", "written_ns": ...}     the first line
    {"kind": "process", "pid": 12, "parent": null, "name": "best_of_n"}                 before the calls of the process, if known
    {"kind": "missing", "num_calls": 1234}                                              here the log had no room for so many
    {"kind": "call", "seq": 7, "pid": 12, "tid": 0, "op": "forward", ...}               abi/types.py CallRecord
    {"kind": "step", "step": 41, "t_start_ns": ..., ...}                                abi/types.py StepRecord

A reader passes over kinds and keys that it does not know, so they may be added without a new version; a file of a newer version is
refused. A last line without its end (the writer was killed) is passed over too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, TypeAlias, get_type_hints

from vllm_symphony.abi.calls import StracePart
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, CallRecord, StepRecord
from vllm_symphony.errors import AccessDenied, InvalidArgument, NoSuchFile, NotSupported

FORMAT, VERSION = "symphony-event-log", 1


@dataclass(frozen=True, slots=True)
class LoggedProcess:
    """Who made calls: what `ps` said of it."""

    pid: int
    parent: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Calls that the log had no room for."""

    num_calls: int


Item: TypeAlias = LoggedProcess | Missing | CallRecord | StepRecord
_KINDS: Mapping[str, type[Any]] = {"process": LoggedProcess, "missing": Missing, "call": CallRecord, "step": StepRecord}
_WORDS = {cls: kind for kind, cls in _KINDS.items()}
_HINTS = {cls: get_type_hints(cls) for cls in _KINDS.values()}


class Writer:
    """Writes an event log to a text stream, which is the caller's."""

    def __init__(self, out: IO[str], *, written_ns: int) -> None:
        self._out = out
        self._line({"format": FORMAT, "version": VERSION, "abi": f"{ABI_MAJOR}.{ABI_MINOR}", "written_ns": written_ns})

    def add(self, item: Item) -> None:
        """One more line."""
        self._line({"kind": _WORDS[type(item)], **asdict(item)})

    def add_part(self, part: StracePart) -> None:
        """All of a part of a strace, and out with it: somebody may be reading along."""
        if part.missing:
            self.add(Missing(part.missing))
        for record in part.records:
            self.add(record)
        for step in part.steps:
            self.add(step)
        self._out.flush()

    def _line(self, value: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(value, separators=(",", ":")) + "\n")


@dataclass
class LogFile:
    """What was in a file: its header, its processes, its calls and steps in order."""

    header: Mapping[str, Any]
    processes: dict[int, LoggedProcess] = field(default_factory=dict)
    parts: list[StracePart] = field(default_factory=list)

    def of(self, pid: int | None, children: bool) -> Iterator[StracePart]:
        """The parts with the calls of one process and, with `children`, of its descendants. Raises InvalidArgument if unknown."""
        if pid is None:
            yield from self.parts
            return
        family = self._family(pid) if children else {pid}
        if pid not in self.processes and not any(r.pid == pid for part in self.parts for r in part.records):
            raise InvalidArgument(f"process {pid} is not in the file", pid=pid)
        for part in self.parts:
            yield StracePart(tuple(r for r in part.records if r.pid in family), part.steps, part.missing)

    def _family(self, pid: int) -> set[int]:
        family = {pid}
        for process in sorted(self.processes.values(), key=lambda p: p.pid):  # children have higher pids
            if process.parent in family:
                family.add(process.pid)
        return family


def load(path: Path) -> LogFile:
    """Read a whole file.

    Raises:
        NoSuchFile, AccessDenied: it cannot be read.
        InvalidArgument: it is no event log, or a line of it is bad; `line` says which.
        NotSupported: a newer version wrote it.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            return _collect(read(lines))
    except FileNotFoundError:
        raise NoSuchFile(f"no such file: {path}", path=str(path)) from None
    except OSError as e:
        raise AccessDenied(f"cannot read {path}: {e.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is no event log: it is no text", path=str(path)) from None
    except InvalidArgument as e:
        raise InvalidArgument(f"{path}, {e.message}", line=e.values["line"]) from None


def read(lines: Iterable[str]) -> Iterator[Mapping[str, Any] | Item]:
    """The header, then the items. Raises as `load`."""
    numbered = enumerate(lines, 1)
    yield _header(next(numbered, (1, ""))[1])
    for number, text in numbered:
        if not text.endswith("\n"):  # the writer was killed in the middle of it
            return
        item = _item(number, text)
        if item is not None:
            yield item


def _collect(items: Iterator[Any]) -> LogFile:
    log = LogFile(next(items))
    for item in items:
        if isinstance(item, LoggedProcess):
            log.processes[item.pid] = item
        elif isinstance(item, Missing):
            log.parts.append(StracePart((), (), item.num_calls))
        elif isinstance(item, CallRecord):
            log.parts.append(StracePart((item,)))
        else:
            log.parts.append(StracePart((), (item,)))
    return log


def _header(text: str) -> Mapping[str, Any]:
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InvalidArgument(f"line 1: no event log: it does not begin with {FORMAT}", line=1)
    version = header.get("version")
    if not isinstance(version, int) or version < 1:
        raise InvalidArgument(f"line 1: version must be a number from 1 on, not {version!r}", line=1)
    if version > VERSION:
        raise NotSupported(f"the event log has version {version}, this symphony reads up to {VERSION}", version=version)
    return header


def _item(number: int, text: str) -> Item | None:
    """None for a kind of the future."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"line {number}: no JSON: {e}", line=number) from None
    if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
        raise InvalidArgument(f"line {number}: no record with a kind", line=number)
    cls = _KINDS.get(values["kind"])
    if cls is None:
        return None
    hints, known = _HINTS[cls], {}
    for f in fields(cls):
        if f.name not in values:
            if f.default is MISSING:
                raise InvalidArgument(f"line {number}: a {values['kind']} without {f.name}", line=number)
            continue
        value = known[f.name] = values[f.name]
        if isinstance(value, bool) or not isinstance(value, hints[f.name]):
            raise InvalidArgument(f"line {number}: {f.name} is {json.dumps(value)[:64]}", line=number)
    item: Item = cls(**known)
    return item
