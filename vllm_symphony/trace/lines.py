"""Logs of the server's processes as JSON, a line each (trace/lines.py): `symphony serve --log-format json`.

    {"ts": "2026-11-22T14:38:26.646934Z", "level": "info", "logger": "symphony.access", "process": "edge", "message": "Spawn OK
    ...",
     "principal": "ann", "pid": 12}

`pid` is a program's, `principal` whose request it was, `request` its id at the door, `error` a traceback: where they are known.
They come as `extra` of the logging call, or from the context of the request that is being served (`known`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
TEXT_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
KNOWN = ("pid", "principal", "request", "method", "door", "code", "seconds", "peer")  # what a line may say beside its message
Known = Callable[[], Mapping[str, Any]]


class JsonLine(logging.Formatter):
    """One JSON object; a line end in a message cannot make two lines of it."""

    def __init__(self, process: str, known: Known = dict) -> None:
        """`known`: of the request that is being served, in this task."""
        super().__init__()
        self._process = process
        self._known = known

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        said = record.__dict__
        for name, value in {**self._known(), **{name: said[name] for name in KNOWN if name in said}}.items():
            if value not in (None, ""):
                line[name] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def begin_log(process: str, level: str, form: str = TEXT, known: Known = dict) -> None:
    """Log to stderr from here on. `process`: `edge`, `host` or `web`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine(process, known) if form == JSON else logging.Formatter(TEXT_FORM))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def vllm_environment(form: str) -> dict[str, str]:
    """For a process that will import vLLM: its lines go by our handler too, where ours are JSON."""
    return {"VLLM_CONFIGURE_LOGGING": "0"} if form == JSON else {}
