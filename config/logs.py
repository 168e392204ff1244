"""
structlog, set up from the ``log:`` section.

One line an event, on standard error: text for people on a terminal, otherwise JSON with ``time``, ``level``,
``area``, ``event`` and the event's own fields. What libraries log through ``logging`` at warning or above
takes the same way, so that a log has one format.

Nothing here hides anything: no secret, key, payload, header value or query string may be given to a logger
in the first place.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import structlog

from sallyport.config.sections import LogConfig

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(config: LogConfig, stream: TextIO | None = None) -> None:
    """
    Send this process's log to ``stream``; call once, before the first event.

    Args:
        config: level and format.
        stream: where lines go; None means standard error.
    """
    stream = stream or sys.stderr
    level = _LEVELS[config.level]
    is_terminal = stream.isatty()
    _output.stream = stream
    structlog.configure(
        processors=[
            _add_area,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            *_renderers(config, is_terminal=is_terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Writer,
        # One line a call is logged: binding a logger anew each time would cost as much as the line itself.
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(level, logging.WARNING), force=True)


def _renderers(config: LogConfig, *, is_terminal: bool) -> "list[Processor]":
    if config.format == "text" or (config.format == "auto" and is_terminal):
        colors = is_terminal and not os.environ.get("NO_COLOR")
        return [
            structlog.dev.ConsoleRenderer(
                colors=colors, pad_event_to=0, pad_level=False, timestamp_key="time"
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]


@dataclass(slots=True)
class _Output:
    """Where every logger of the process writes: one place, so that loggers made earlier follow a change."""

    stream: TextIO


_output = _Output(sys.stderr)


class _Writer:
    """The end of a logger's chain: takes a finished line and writes it whole."""

    def __init__(self, area: str = "sallyport") -> None:
        self.area = area

    def msg(self, line: str) -> None:
        try:
            _output.stream.write(line + "\n")
            _output.stream.flush()
        except (OSError, ValueError):
            # The log's reader has gone (closed pipe, full disk): calls go on, and nobody is left to tell.
            return

    debug = info = warning = warn = error = critical = exception = msg


def _add_area(logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    event.setdefault("area", logger.area)
    return event


class _FromLibraries(logging.Handler):
    """Hands what libraries log to structlog; never their arguments apart, only the message that they made."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: MutableMapping[str, object] = {"area": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), **fields)
