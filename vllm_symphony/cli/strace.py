"""symphony strace: the system calls of a process, a line for each as it ends (cli/strace.py).

12:01:07.123456  3/0  forward(fd=3 n=1 top_k=20) = ok  <0.012345>  [step 41]
when it began    pid/thread  call and what it took    result  seconds (-T)  engine steps that worked on it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from vllm_symphony.abi.calls import StracePart
from vllm_symphony.abi.types import CallRecord
from vllm_symphony.cli import table
from vllm_symphony.cli.command import natural
from vllm_symphony.cli.moment import clock
from vllm_symphony.client.client import Client
from vllm_symphony.errors import AccessDenied, InvalidArgument
from vllm_symphony.trace.choice import ALL, Choice
from vllm_symphony.trace.count import Counts
from vllm_symphony.trace.file import LoggedProcess, Writer, load

EXAMPLE = "symphony strace -f -T -e forward,generate 12"

COLUMNS = {
    "CALL": lambda c: c.op,
    "CALLS": lambda c: c.num_calls,
    "ERRORS": lambda c: c.num_errors,
    "TOTAL s": lambda c: f"{c.total_s:.6f}",
    "MEAN s": lambda c: f"{c.mean_s:.6f}",
    "MAX s": lambda c: f"{c.max_s:.6f}",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", nargs="?", type=natural, help="only this process, until it ends (default: all, until Ctrl-C)")
    parser.add_argument("-f", "--children", action="store_true", help="also what it spawns")
    parser.add_argument("--once", action="store_true", help="only the calls that are kept: do not follow")
    parser.add_argument("-T", "--time", action="store_true", help="seconds from call to answer")
    parser.add_argument("-c", "--count", action="store_true", help="no lines: how often and how long, for each call, at the end")
    parser.add_argument(
        "-e", "--calls", metavar="CALLS", type=_choice, default=ALL,
        help="only these: names, or kinds of calls (file, model, process, text), with commas; !CALLS: all but these",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write the event log, with engine steps, to a file instead"
    )
    parser.add_argument("--from", dest="source", metavar="FILE", type=Path, help="read such a file instead of asking a server")
    parser.add_argument("--json", action="store_true", help="each call as a JSON line; with -c a JSON array")


async def call(client: Client, args: argparse.Namespace) -> int:
    with shown(args) as log:
        async for part in client.strace(args.pid, follow=not args.once, children=args.children, steps=args.output is not None):
            if args.output is not None and (new := log.unknown(part)):
                log.introduce(LoggedProcess(p.pid, p.parent, p.name) for p in await client.ps() if p.pid in new)
            log.take(part)
    return 0


def start(args: argparse.Namespace) -> int:
    """With --from."""
    source = load(args.source)
    with shown(args) as log:
        for part in source.of(args.pid, args.children):
            log.introduce(source.processes[pid] for pid in log.unknown(part) if pid in source.processes)
            log.take(part)
    return 0


class Shown:
    """Where the parts of a strace go: lines, or a file, or a table at the end."""

    def __init__(self, args: argparse.Namespace, writer: Writer | None) -> None:
        self._args = args
        self._writer = writer
        self._seen: set[int] = set()
        self.counts = Counts()

    def unknown(self, part: StracePart) -> set[int]:
        """Processes that it has the first calls of."""
        pids = {record.pid for record in part.records} - self._seen
        self._seen |= pids
        return pids

    def introduce(self, processes: Iterable[LoggedProcess]) -> None:
        """Who the calls to come are of; for the file."""
        if self._writer is not None:
            for process in processes:
                self._writer.add(process)

    def take(self, part: StracePart) -> None:
        """Show, write or count one part."""
        args = self._args
        part = replace(part, records=tuple(r for r in part.records if args.calls.takes(r.op)))
        for record in part.records:
            self.counts.add(record)
        if self._writer is not None:
            self._writer.add_part(part)
        elif not args.count:
            self._print(part)

    def _print(self, part: StracePart) -> None:
        as_json = self._args.json
        if part.missing:
            if as_json:
                table.line({"missing": part.missing})
            else:
                print(gap(part.missing))
        for record in part.records:
            if as_json:
                table.line(asdict(record))
            else:
                print(text(record, self._args.time), flush=True)


@contextmanager
def shown(args: argparse.Namespace) -> Iterator[Shown]:
    """What shows or writes the parts; however it ends, Ctrl-C too, the file is whole and the table is printed."""
    with ExitStack() as stack:
        writer = None
        if args.output is not None:
            try:
                out = stack.enter_context(args.output.open("w", encoding="utf-8"))
            except OSError as e:
                raise AccessDenied(f"cannot write {args.output}: {e.strerror}", path=str(args.output)) from None
            writer = Writer(out, written_ns=time.time_ns())
        log = Shown(args, writer)
        try:
            yield log
        finally:
            if args.count:
                table.show(log.counts.rows(), COLUMNS, as_json=args.json)


def text(record: CallRecord, with_time: bool = True) -> str:
    """One line."""
    line = f"{clock(record.t_start_ns)}  {record.pid}/{record.tid}  {record.op}({record.args}) = {record.result}"
    if with_time:
        line += f"  <{(record.t_end_ns - record.t_start_ns) / 1e9:.6f}>"
    if record.step_first is None:
        return line
    steps = str(record.step_first) if record.step_last == record.step_first else f"{record.step_first}-{record.step_last}"
    return f"{line}  [step {steps}]"


def gap(num_calls: int) -> str:
    """In place of calls that the log had no room for."""
    return f"... {num_calls:,} {'call is' if num_calls == 1 else 'calls are'} missing: the log had no more room"


def _choice(words: str) -> Choice:
    try:
        return Choice.of(words)
    except InvalidArgument as e:
        raise argparse.ArgumentTypeError(e.message) from None
