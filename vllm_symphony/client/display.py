"""How processes, files and runs look in a prompt and in a notebook (client/display.py).

    print(await client.ps())        a tree, by parent
     12 running     3.1s  1034 in  212 out  tutor  (generate)
     └─13 exit 0    0.2s     9 in    4 out  draft

A notebook asks for the mime bundle: the same as a table. Names and output are programs' and may hold anything: it is escaped
in HTML, and control characters are made visible in plain text.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import FileStat, ProcessEvent, ProcessStat

if TYPE_CHECKING:
    from vllm_symphony.client.run import RunResult

_SHOWN = frozenset(("stdout", "stderr", "emit", "gap"))
_PROCESS_HEAD = ("pid", "state", "seconds", "tokens in", "tokens out", "pages", "name", "waits for")
_FILE_HEAD = ("path", "tokens", "computed", "pages", "owner", "mode")
Row = Sequence[Any]


class Process(ProcessStat):
    """A process as `ps` shows it; prints as a line, shows as a table."""

    __slots__ = ()

    @classmethod
    def of(cls, stat: ProcessStat) -> Process:
        """The same with a look."""
        return cls(**{field.name: getattr(stat, field.name) for field in fields(ProcessStat)})

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return max(0.0, (self.ended_ns or time.time_ns()) - self.started_ns) / 1e9

    def __str__(self) -> str:
        usage = self.usage
        waiting = f"  ({', '.join(self.waiting)})" if self.waiting else ""
        return (
            f"{self.pid} {_state(self):<9} {self.seconds:.1f}s  {usage.tokens_in} in  {usage.tokens_out} out  "
            f"{plain(self.name or '-')}{waiting}"
        )

    def _repr_html_(self) -> str:
        return _table(_PROCESS_HEAD, [_process_row(self, "")])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


class ProcessList(list[Process]):
    """Processes, by pid; prints as a tree of parents and children."""

    def __str__(self) -> str:
        return "\n".join(f"{branch}{process}" for branch, process in tree(self)) or "no processes"

    def _repr_html_(self) -> str:
        return _table(_PROCESS_HEAD, [_process_row(process, branch) for branch, process in tree(self)])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


class FileList(list[FileStat]):
    """Named files, by name; prints as a list."""

    def __str__(self) -> str:
        return "\n".join(f"{plain(f.path or '-')}  {f.length} tokens, {f.frontier} computed" for f in self) or "no files"

    def _repr_html_(self) -> str:
        rows = [(f.path or "-", f.length, f.frontier, f.num_pages, f.owner, f"{f.mode:04o}") for f in self]
        return _table(_FILE_HEAD, rows)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


def run_text(pid: int | None, name: str, result: RunResult | None, last: Iterable[ProcessEvent]) -> str:
    """A run: its process, and the last lines of its output."""
    return "\n".join([_run_title(pid, name, result), *(f"  {plain(line)}" for line in _lines(last))])


def run_html(pid: int | None, name: str, result: RunResult | None, last: Iterable[ProcessEvent]) -> str:
    """The same for a notebook."""
    return f"<b>{escape(_run_title(pid, name, result))}</b><pre>{escape(chr(10).join(_lines(last)))}</pre>"


def _run_title(pid: int | None, name: str, result: RunResult | None) -> str:
    if result is not None:
        return str(Process.of(result.process))
    return f"{name or 'program'}: not started" if pid is None else f"process {pid} ({plain(name or '-')}): running"


def _lines(events: Iterable[ProcessEvent]) -> list[str]:
    texts = (f"({e.text} events were dropped)\n" if e.kind == "gap" else e.text for e in events if e.kind in _SHOWN)
    return [line for text in texts for line in text.splitlines()]


def _state(process: ProcessStat) -> str:
    return process.state if process.exit is None else f"exit {process.exit.code}"


def tree(processes: Iterable[Process]) -> list[tuple[str, Process]]:
    """Each process with the branch in front of it; a child whose parent is not shown stands at the root."""
    shown = {process.pid: process for process in processes}
    children: dict[int | None, list[Process]] = {}
    for process in shown.values():
        children.setdefault(process.parent if process.parent in shown else None, []).append(process)
    lines: list[tuple[str, Process]] = []
    rest = [("", "", root) for root in reversed(children.get(None, []))]
    while rest:
        branch, below, process = rest.pop()
        lines.append((branch, process))
        mine = children.get(process.pid, [])
        rest += [
            (below + ("└─" if i == len(mine) - 1 else "├─"), below + ("  " if i == len(mine) - 1 else "│ "), child)
            for i, child in reversed(list(enumerate(mine)))
        ]
    return lines


def _process_row(process: Process, branch: str) -> Row:
    usage = process.usage
    return (
        f"{branch}{process.pid}", _state(process), f"{process.seconds:.1f}", usage.tokens_in, usage.tokens_out, process.num_pages,
        process.name or "-", ", ".join(process.waiting) or "-",
    )  # fmt: skip


def _table(head: Row, rows: Sequence[Row]) -> str:
    def line(cells: Row, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
