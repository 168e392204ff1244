"""The log has one format, whoever writes to it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from sallyport.config.logs import configure_logging
from sallyport.config.sections import LogConfig


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_when_nobody_watches() -> None:
    """One object a line: time, level, area, event and the event's own fields."""
    stream = io.StringIO()
    configure_logging(LogConfig(), stream)
    structlog.get_logger("sallyport.relay").info("link up", tunnel="tnl_x", bytes_in=3)
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "area": "sallyport.relay",
        "event": "link up",
        "tunnel": "tnl_x",
        "bytes_in": 3,
    }


def test_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """People read words; NO_COLOR is honoured."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    configure_logging(LogConfig(), stream)
    structlog.get_logger("sallyport.relay").info("link up", tunnel="tnl_x")
    assert "link up" in stream.getvalue()
    assert "tunnel=tnl_x" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_level_holds_back_what_is_below() -> None:
    """Debug lines cost nothing at info."""
    stream = io.StringIO()
    configure_logging(LogConfig(level="warning"), stream)
    log = structlog.get_logger("sallyport.relay")
    log.info("no")
    log.warning("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


def test_exceptions_are_one_line_of_json() -> None:
    """A traceback does not break the one-object-a-line rule."""
    stream = io.StringIO()
    configure_logging(LogConfig(format="json"), stream)
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("sallyport.relay").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]


def test_libraries_speak_through_us() -> None:
    """What a library warns of has the same format; what it merely tells is dropped."""
    stream = io.StringIO()
    configure_logging(LogConfig(level="debug", format="json"), stream)
    logging.getLogger("some.library").info("payload")
    logging.getLogger("some.library").warning("%s failed", "it")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["area"], line["level"], line["event"]) == ("some.library", "warning", "it failed")


def test_lost_reader_stops_nothing() -> None:
    """A closed log does not end a call."""
    stream = io.StringIO()
    configure_logging(LogConfig(), stream)
    stream.close()
    structlog.get_logger("sallyport.relay").info("still here")
