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
import multiprocessing
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
CONFIG_NAME = "logging.json"
TEXT_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
KNOWN = ("pid", "principal", "request", "method", "door", "code", "seconds", "peer")  # what a line may say beside its message
Known = Callable[[], Mapping[str, Any]]


class JsonLine(logging.Formatter):
    """One JSON object; a line end in a message cannot make two lines of it."""

    def __init__(self, process: str, known: Known = dict) -> None:
        """`known`: of the request that is being served, in this task."""
        super().__init__()
        is_engine = process == "web" and multiprocessing.parent_process() is not None  # below vLLM's server
        self._process = "host" if is_engine else process
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


def begin_vllm_log(process: str, level: str, form: str, folder: Path) -> None:
    """As `begin_log`, in a process that will import vLLM: its own and uvicorn's lines, also those of the engine's process below
    it, get the same form by a file in `folder` that vLLM reads (VLLM_LOGGING_CONFIG_PATH)."""
    begin_log(process, level, form)
    if form != JSON:
        return
    path = folder / CONFIG_NAME
    path.write_text(json.dumps({
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.JsonLine", "process": process}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
    }))  # fmt: skip
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(path)
