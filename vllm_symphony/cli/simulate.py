"""symphony simulate: play a trace under scheduling policies, on a simulated device (cli/simulate.py, docs/simulator.md).

symphony simulate mix --load 0.9 --policy fcfs --policy shortest           programs a second as 0.9 of what the device can do
symphony simulate toolgaps --pressure 2 --memory lru --memory infercept    half of the pages that the programs would hold
symphony simulate day.jsonl --step-time cpu.json --json                    a trace of yours, on a machine that was calibrated
symphony simulate fair --programs 1000 --write fair.jsonl                  only make the trace

Every policy that is given for one level is played with every one of the other. No server, model or GPU is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_symphony.cli import table
from vllm_symphony.cli.command import natural
from vllm_symphony.errors import InvalidArgument

if TYPE_CHECKING:
    from vllm_symphony.simulate.player import Host
    from vllm_symphony.simulate.trace import Trace

EXAMPLE = "symphony simulate mix --programs 200 --load 0.9 --policy fcfs --policy shortest"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trace", metavar="TRACE", help="documents, agents, toolgaps, mix, fair, interruptions, lockstep, or a file of JSON lines"
    )
    made = parser.add_argument_group("the trace that is made")
    made.add_argument("--programs", type=natural, default=200, metavar="N", help="how many (default: 200)")
    made.add_argument("--principals", type=natural, default=1, metavar="N", help="whose, as many of each (default: 1)")
    made.add_argument("--rate", type=_positive, metavar="R", help="so many arrive a second (default: all at once)")
    made.add_argument("--load", type=_positive, metavar="X", help="arrive at X of the rate that the device can just do")
    made.add_argument("--scale", type=_positive, default=1.0, metavar="X", help="texts are shorter by this (default: 1)")
    made.add_argument("--client", type=_positive, metavar="MS", help="each call is a request of a client so far away")
    made.add_argument("--seed", type=natural, action="append", metavar="N", help="may be repeated (default: 0)")
    made.add_argument("--write", type=Path, metavar="FILE", help="write the trace there, and play nothing")
    rules = parser.add_argument_group("the rules", "NAME or NAME:PARAMETER=NUMBER,...; may be repeated")
    rules.add_argument("--policy", action="append", metavar="POLICY", help="who goes first")
    rules.add_argument("--memory", action="append", metavar="POLICY", help="who holds pages while waiting")
    rules.add_argument("--batch", action="append", metavar="POLICY", help="when a step begins")
    host = parser.add_argument_group("the machine", "By default about an 8B model on one H100.")
    host.add_argument("--pages", type=natural, metavar="N", help="of KV cache")
    host.add_argument("--pressure", type=_positive, metavar="X", help="as many pages as the programs would hold, divided by X")
    host.add_argument("--page-size", type=natural, metavar="N", help="tokens of a page (default: 16)")
    host.add_argument("--rows", type=natural, metavar="N", help="the most calls in a step (default: 256)")
    host.add_argument("--tokens", type=natural, metavar="N", help="the most tokens in a step (default: 8192)")
    host.add_argument("--host-tokens", type=natural, metavar="N", help="KV of so many in memory below the device (default: none)")
    host.add_argument("--step-time", type=Path, metavar="FILE", help="what `python -m benchmarks calibrate` wrote")
    host.add_argument("--stride", type=natural, metavar="N", help="look at who waits every N steps only: faster, not exact")
    parser.add_argument("--json", action="store_true", help="a JSON line for each play, with each program's completion")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw completion.svg and machine.svg there (extra `plots`)")


def start(args: argparse.Namespace) -> int:
    from vllm_symphony.simulate import trace as traces
    from vllm_symphony.simulate.comparison import compare

    host = _host(args)
    made = _traces(args, host)
    if args.client is not None:
        made = [trace.by_client(args.client / 1000) for trace in made]
    if args.write is not None:
        with args.write.open("w") as file:
            traces.write(made[0], file)
        return 0
    if args.pressure is not None:
        from vllm_symphony.simulate.probe import working_set

        host = replace(host, num_pages=max(1, round(working_set(made[0], host) / args.pressure)))
    results = compare(made, host, _rules(args))
    if args.json:
        for result in results:
            table.line(result.as_dict())
    else:
        print(
            f"{made[0].name}: {len(made[0].scripts)} programs, {host.num_pages:,} pages of {host.page_size}, {host.max_rows} rows"
        )
        print("\n".join(table.lines(results, COLUMNS)))
    if args.plots is not None:
        from vllm_symphony.simulate.plot import draw

        for path in draw(results, args.plots):
            print(f"wrote {path}", file=sys.stderr)
    return 0


COLUMNS: dict[str, Any] = {
    "POLICY": lambda r: r.rules.process,
    "MEMORY": lambda r: r.rules.memory,
    "BATCH": lambda r: r.rules.batch,
    "SEED": lambda r: r.seed,
    "MEAN": lambda r: _s(r.summary.completion_s.mean),
    "P95": lambda r: _s(r.summary.completion_s.p95),
    "P99": lambda r: _s(r.summary.completion_s.p99),
    "SLOWDOWN": lambda r: f"{r.summary.slowdown.mean:.2f}",
    "FIRST": lambda r: _s(r.summary.first_token_s.mean),
    "PER S": lambda r: f"{r.summary.programs_s:.3g}",
    "FAIR": lambda r: f"{r.summary.fairness:.3f}",
    "BUSY": lambda r: f"{r.summary.utilisation:.0%}",
    "ROWS": lambda r: f"{r.summary.occupancy:.0%}",
    "PAGES": lambda r: f"{r.summary.pages:.0%}",
    "REUSE": lambda r: f"{r.summary.reuse:.1%}",
    "MOVED": lambda r: r.summary.moved_pages,
    "FAILED": lambda r: r.summary.num_failed,
}


def _host(args: argparse.Namespace) -> Host:
    from vllm_symphony.simulate import steptime
    from vllm_symphony.simulate.player import Host

    if args.pages is not None and args.pressure is not None:
        raise InvalidArgument("--pages and --pressure both say how many pages there are")
    given = {
        "num_pages": args.pages, "page_size": args.page_size, "max_rows": args.rows, "max_tokens": args.tokens,
        "host_tokens": args.host_tokens, "stride": args.stride,
        "step_time": steptime.load(args.step_time) if args.step_time is not None else None,
    }  # fmt: skip
    host = Host(**{name: value for name, value in given.items() if value is not None})
    if min(host.num_pages, host.page_size, host.max_rows, host.max_tokens) < 1:
        raise InvalidArgument("pages, rows and tokens must be 1 or more")
    return host


def _traces(args: argparse.Namespace, host: Host) -> list[Trace]:
    """One for each seed; a file's as it is."""
    from vllm_symphony.simulate import trace as traces
    from vllm_symphony.simulate.probe import saturation
    from vllm_symphony.simulate.workload import WORKLOADS, Shape, generate

    if args.trace not in WORKLOADS:
        try:
            with Path(args.trace).open() as file:
                return [traces.read(file)]
        except OSError as error:
            raise InvalidArgument(f"{args.trace} is no workload ({', '.join(WORKLOADS)}) and no file: {error.strerror}") from None
    if args.rate is not None and args.load is not None:
        raise InvalidArgument("--rate and --load both say how fast programs arrive")
    seeds = args.seed or [0]
    shape = Shape(args.programs, args.rate or 0.0, args.scale, seeds[0], args.principals)
    if args.load is not None:
        shape = replace(shape, rate=args.load * saturation(generate(args.trace, shape), host))
    return [generate(args.trace, replace(shape, seed=seed)) for seed in seeds]


def _rules(args: argparse.Namespace) -> Sequence[Any]:
    from vllm_symphony.simulate.comparison import Rules

    usual = Rules()
    chosen = (args.policy or [usual.process], args.memory or [usual.memory], args.batch or [usual.batch])
    return [Rules(*each) for each in product(*chosen)]


def _s(seconds: float) -> str:
    return f"{seconds:.3g}s"


def _positive(text: str) -> float:
    """For argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
