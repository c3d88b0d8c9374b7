"""Pictures of plays (simulate/plot.py): needs matplotlib (the extra `plots`).

completion.svg   for each of the rules, how many programs had ended after so many seconds of their own time
machine.svg      rows that compute, calls that wait and pages that are held, over the time of the play
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllm_symphony.errors import NotSupported
from vllm_symphony.simulate.comparison import Result


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write both pictures of these plays of one trace. Raises NotSupported without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NotSupported("plots need matplotlib: pip install 'vllm-symphony[plots]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "completion.svg", folder / "machine.svg"]

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for result in results:
        ended = sorted(s for o in result.played.outcomes if not o.failure and (s := o.completion_s) is not None)
        axes.plot(ended, [(i + 1) / len(ended) for i in range(len(ended))], label=f"{result.rules.label}, seed {result.seed}")
    axes.set(xlabel="completion, seconds", ylabel="programs", xscale="log", ylim=(0, 1), title=results[0].played.trace.name)
    axes.legend(fontsize="small")
    figure.savefig(paths[0])

    figure = Figure(figsize=(7, 2.2 * len(results)), layout="constrained")
    for axes, result in zip(figure.subplots(len(results), squeeze=False)[:, 0], results, strict=True):
        moments, host = result.played.moments, result.played.host
        at = [m.at_s for m in moments]
        axes.plot(at, [m.num_rows / host.max_rows for m in moments], label="rows", linewidth=0.8)
        axes.plot(at, [m.pages_held / host.num_pages for m in moments], label="pages", linewidth=0.8)
        axes.set(ylabel="of all", ylim=(0, 1.05), title=f"{result.rules.label}, seed {result.seed}")
        beside = axes.twinx()
        beside.plot(at, [m.num_waiting for m in moments], label="waiting", color="grey", linewidth=0.6)
        beside.set_ylabel("calls that wait")
        axes.legend(loc="upper left", fontsize="small")
    figure.savefig(paths[1])
    return paths
