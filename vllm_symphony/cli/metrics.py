"""symphony metrics: all that a running server counts (cli/metrics.py).

The text is Prometheus's own, without help; docs/metrics.md tells what each is.
"""

from __future__ import annotations

import argparse
import json

from vllm_symphony.abi.types import MetricSample
from vllm_symphony.client.client import Client

EXAMPLE = "symphony metrics tokens calls"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the server's metrics. Needs scope admin."
    parser.add_argument("name", nargs="*", help="only metrics whose names have one of these words")
    parser.add_argument("--json", action="store_true", help="a JSON array of objects with name, labels and value")


async def call(client: Client, args: argparse.Namespace) -> int:
    samples = [s for s in await client.metrics() if not args.name or any(word in s.name for word in args.name)]
    if args.json:
        print(json.dumps([{"name": s.name, "labels": s.labels, "value": s.value} for s in samples]))
        return 0
    for sample in samples:
        print(_line(sample))
    return 0


def _line(sample: MetricSample) -> str:
    labels = ",".join(f"{label}={json.dumps(value)}" for label, value in sample.labels.items())
    value = int(sample.value) if sample.value == int(sample.value) else sample.value
    return f"{sample.name}{{{labels}}} {value}" if labels else f"{sample.name} {value}"
