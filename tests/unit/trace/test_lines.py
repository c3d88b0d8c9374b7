"""Log lines as JSON: one object each, with what is known."""

import json
import logging
import logging.config
import sys

import pytest

from vllm_symphony.trace.lines import CONFIG_NAME, JsonLine, begin_vllm_log


@pytest.fixture(autouse=True)
def root_log(monkeypatch):
    """The root logger as it was, and the environment."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "")
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def line(message: str, *args: object, known: dict | None = None, exc_info: object = None, **extra: object) -> dict:
    record = logging.LogRecord("symphony.edge", logging.WARNING, __file__, 1, message, args, exc_info)
    record.__dict__.update(extra)
    record.created = 1_700_000_000.25
    text = JsonLine("edge", lambda: known or {}).format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_says_when_how_grave_who_and_what():
    assert line("%d files", 3) == {
        "ts": "2023-11-14T22:13:20.250000Z", "level": "warning", "logger": "symphony.edge", "process": "edge", "message": "3 files"
    }  # fmt: skip


def test_a_line_says_whose_request_it_was_and_of_which_program():
    found = line("ended", known={"principal": "ann"}, pid=12, code="OK", unknown_thing="x")

    assert (found["principal"], found["pid"], found["code"]) == ("ann", 12, "OK")
    assert "unknown_thing" not in found


def test_a_message_with_line_ends_and_quotes_is_one_line():
    assert line('two\nlines "and" more')["message"] == 'two\nlines "and" more'


def test_an_error_comes_with_its_traceback():
    try:
        raise ValueError("no")
    except ValueError:
        found = line("it failed", exc_info=sys.exc_info())

    assert "ValueError: no" in found["error"]


def test_vllms_lines_get_the_same_form_by_its_own_file(tmp_path, monkeypatch):
    begin_vllm_log("host", "info", "json", tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())

    assert config["formatters"]["json"]["()"] == "vllm_symphony.trace.lines.JsonLine"
    assert config["root"] == {"level": "INFO", "handlers": ["stderr"]}
    logging.config.dictConfig(config)
    assert isinstance(logging.getLogger().handlers[0].formatter, JsonLine)


def test_a_log_of_text_leaves_vllms_alone(tmp_path):
    begin_vllm_log("host", "info", "text", tmp_path)

    assert list(tmp_path.iterdir()) == []
