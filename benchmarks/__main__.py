"""`python -m benchmarks [NAME | all] [--quick] [--json] [--strict]` (benchmarks/__main__.py)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning,ignore::FutureWarning")  # at an engine's end, loudly

from benchmarks.apart import Failed
from benchmarks.registry import ALL, BY_NAME, Options
from benchmarks.report import table

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Symphony. Without a name: list what there is."
    )
    parser.add_argument(
        "name", nargs="?", choices=[*BY_NAME, "all"], metavar="NAME", help="a benchmark, or `all`, one after another"
    )
    parser.add_argument("--quick", action="store_true", help="a short run; figures are rough")
    parser.add_argument("--json", action="store_true", help="after the table, one JSON line with figures and raw samples")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a figure misses its bound")
    parser.add_argument("--model", help="tiny, small, a name or a folder, instead of the benchmark's own choice")
    parser.add_argument(
        "--host", choices=("own", "vllm"), default="own",
        help="decode, batching: the kernel in a host of ours (default), or in vLLM's own engine process",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.name is None:
        return list_all()
    if options.name == "all":
        flags = [a for a in (argv if argv is not None else sys.argv[1:]) if a != "all"]
        return max((run_alone(b.name, flags) for b in ALL if b.is_written), default=2)
    return run(options)


def list_all() -> int:
    print(table([{"name": b.name if b.is_written else f"({b.name})", "shows": b.shows} for b in ALL]))
    print("\npython -m benchmarks NAME [--quick] [--json]; those in parentheses are not written yet")
    return 0


def run_alone(name: str, flags: list[str]) -> int:
    """In a process of its own: each gets a fresh engine and gives all memory back."""
    print(f"== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", "benchmarks", name, *flags]).returncode


def run(options: argparse.Namespace) -> int:
    benchmark = BY_NAME[options.name]
    if not benchmark.is_written:
        print(f"benchmark {benchmark.name} is not written yet", file=sys.stderr)
        return 2
    try:
        report = benchmark.run(Options(options.quick, options.model, options.host))
    except Failed as e:
        print(f"{benchmark.name}: {e}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"{benchmark.name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(report.as_text(benchmark.bounds), flush=True)
    if options.json:
        print(report.as_json(), flush=True)
    missed = [name for name, bound in benchmark.bounds.items() if not bound.holds(report.figures.get(name, float("nan")))]
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
