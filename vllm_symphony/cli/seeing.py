"""The flags of serve that say who looks at the server: metrics, traces, logs (cli/seeing.py)."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from vllm_symphony.trace.lines import FORMATS, TEXT, begin_log

if TYPE_CHECKING:
    from vllm_symphony.edge.seeing import Seen


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--metrics", metavar="ADDRESS", default="",
                        help="serve Prometheus's metrics at http://ADDRESS/metrics, as 127.0.0.1:9464 (0: a free port); beyond "
                        "loopback with TLS only; with --http they are at /metrics there too (docs/metrics.md)")  # fmt: skip
    parser.add_argument("--otlp-endpoint", metavar="URL", default="",
                        help="send traces of programs and sessions to this OpenTelemetry collector, as http://127.0.0.1:4317; "
                        "the variables OTEL_* are heeded (docs/tracing.md)")  # fmt: skip
    parser.add_argument("--otlp-protocol", choices=("grpc", "http/protobuf"), default=None,
                        help="how the collector is spoken to (default: $OTEL_EXPORTER_OTLP_PROTOCOL, else grpc)")  # fmt: skip
    parser.add_argument("--log-format", choices=FORMATS, default=TEXT,
                        help="json: one object a line, of all the server's processes (docs/tracing.md; default: text)")  # fmt: skip


def seen(args: argparse.Namespace) -> Seen:
    """What they say of metrics and traces."""
    from vllm_symphony.edge.seeing import Seen

    protocol = args.otlp_protocol or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    return Seen(metrics=args.metrics, otlp=args.otlp_endpoint, otlp_protocol=protocol)


def begin(args: argparse.Namespace, level: str) -> None:
    """Log from here on."""
    from vllm_symphony.edge.credentials import known
    from vllm_symphony.edge.meter import CountLines

    begin_log("edge", level, args.log_format, known)
    logging.getLogger().addHandler(CountLines())
