"""How a process's events and its end look on a terminal (cli/output.py).

stdout, stderr   to ours; as they are, but on a terminal without what would steer it (abi/plain.py)
emit             a JSON line on stdout
gap              a remark on stderr
started, exit    nothing
the end          the value on stdout, what it cost on stderr; or one JSON line
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any, TextIO

from vllm_symphony.abi.plain import plain_lines
from vllm_symphony.abi.types import ProcessEvent, ProcessStat
from vllm_symphony.cli import table
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.moment import duration
from vllm_symphony.client.run import RunResult


def show(event: ProcessEvent, *, as_json: bool) -> None:
    """Print one event, at once."""
    if as_json:
        table.line(asdict(event))
    elif event.kind in ("stdout", "emit"):
        sys.stdout.write(fit(event.text, sys.stdout) if event.kind == "stdout" else event.text + "\n")
        sys.stdout.flush()
    elif event.kind in ("stderr", "gap"):
        sys.stdout.flush()
        sys.stderr.write(
            fit(event.text, sys.stderr) if event.kind == "stderr" else f"symphony: {event.text} events were dropped here\n"
        )
        sys.stderr.flush()


def show_result(result: RunResult, *, as_json: bool, stats: bool, printed_error: bool) -> None:
    """Print how it ended. `stats`: what it cost, even where nobody looks. `printed_error`: it has told by itself what was wrong."""
    exit_, process = result.exit, result.process
    if as_json:
        table.line({"kind": "result", "pid": process.pid, "code": exit_.code, "reason": exit_.reason, "value": result.value,
                    "error": exit_.error, "stats": _stats(process)})  # fmt: skip
    elif result.value is not None:
        text = result.value if isinstance(result.value, str) else json.dumps(result.value)
        print(fit(text, sys.stdout), flush=True)
    if exit_.error and not printed_error and not as_json:
        complain(exit_.error)
    if stats or (sys.stderr.isatty() and not as_json):
        s = _stats(process)
        complain(
            f"process {process.pid} ({process.name or '-'}): exit {exit_.code} ({exit_.reason}) after {duration(s['seconds'])}; "
            f"{s['tokens_in']} tokens in, {s['tokens_out']} out, {s['num_steps']} steps, {s['num_calls']} calls, "
            f"device {duration(s['device_s'])}, cpu {duration(s['cpu_s'])}"
        )


def fit(text: str, stream: TextIO) -> str:
    """A program's text for one of our streams."""
    return plain_lines(text) if stream.isatty() else text


def _stats(process: ProcessStat) -> dict[str, Any]:
    usage = process.usage
    return {
        "seconds": ((process.ended_ns or process.started_ns) - process.started_ns) / 1e9,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "num_calls": usage.num_calls,
        "num_forwards": usage.num_forwards,
        "num_steps": usage.num_steps,
        "device_s": usage.device_s,
        "cpu_s": usage.cpu_s,
    }
