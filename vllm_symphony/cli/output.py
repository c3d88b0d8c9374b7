"""How a process's events look on a terminal (cli/output.py).

stdout, stderr   to ours, as they are
emit             a JSON line on stdout
gap              a remark on stderr
started, exit    nothing
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from vllm_symphony.abi.types import ProcessEvent
from vllm_symphony.cli import table


def show(event: ProcessEvent, *, as_json: bool) -> None:
    """Print one event, at once."""
    if as_json:
        table.line(asdict(event))
    elif event.kind in ("stdout", "emit"):
        sys.stdout.write(event.text if event.kind == "stdout" else event.text + "\n")
        sys.stdout.flush()
    elif event.kind in ("stderr", "gap"):
        sys.stdout.flush()
        sys.stderr.write(event.text if event.kind == "stderr" else f"symphony: {event.text} events were dropped here\n")
        sys.stderr.flush()
