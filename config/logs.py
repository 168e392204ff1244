"""
structlog, set up from the ``log:`` section.

One line an event, on standard error: text for people on a terminal, otherwise JSON with ``time``, ``level``,
``area``, ``event`` and the event's own fields. What libraries log through ``logging`` at warning or above
takes the same way, so that a log has one format.

Every call is a line, so a line has to be cheap. JSON is made in one step instead of structlog's usual five
(``_JsonLine``), the line of a call goes straight to that step (``write_call``), and a process with an event
loop writes the lines of ``JOINED_SECONDS`` with one system call (``join_lines``). A warning is written at
once, with all that stands before it; what ends a process without asking it, SIGKILL or the kernel, takes the
lines of that moment with it.

Nothing here hides anything: no secret, key, payload, header value or query string may be given to a logger
in the first place.
"""

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

import structlog

from sallyport.config.sections import LogConfig

try:
    import orjson
except ImportError:
    _HAS_ORJSON = False
else:
    _HAS_ORJSON = True

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
JOINED_SECONDS = 0.02
"""How long a line may wait for others. A reader of the log does not notice it; 500 calls may fit into it."""
_LEVEL_OF_METHOD = {"warn": "warning", "exception": "error"}


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
    _output.flush()
    _output.stream = stream
    is_text = config.format == "text" or (config.format == "auto" and is_terminal)
    filtering = structlog.make_filtering_bound_logger(level)
    has_short_way = not is_text and level <= logging.INFO
    structlog.configure(
        processors=_text(is_terminal=is_terminal) if is_text else [_JsonLine()],
        wrapper_class=type("JsonLogger", (_ShortWay, filtering), {}) if has_short_way else filtering,
        logger_factory=_Writer,
        # One line a call is logged: binding a logger anew each time would cost as much as the line itself.
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(level, logging.WARNING), force=True)


def join_lines(call_later: Callable[[float, Callable[[], None]], object]) -> None:
    """
    Write lines together from now on, a moment later.

    Args:
        call_later: That of the running event loop. Lines of other threads are written as they come.
    """
    _output.join(lambda write: call_later(JOINED_SECONDS, write))


def write_lines() -> None:
    """Write what waits, and from now on each line at once: the event loop is about to end."""
    _output.part()


def write_call(log: "FilteringBoundLogger", facts: "Mapping[str, object]") -> None:
    """
    Write the line of a call: what ``log.info("call", **facts)`` does, at less than half its price.

    Args:
        log: What ``structlog.get_logger`` returned.
        facts: The event's own fields, in the order of the line; no ``exc_info`` among them. They are kept
            and rendered a moment later.
    """
    # ``log`` is a proxy that finds the logger anew for each attribute. ``bind`` asks it only for the logger.
    logger = log.bind()
    if isinstance(logger, _ShortWay):
        logger.write_call(facts)
    else:
        logger.info("call", **facts)


def _text(*, is_terminal: bool) -> "list[Processor]":
    colors = is_terminal and not os.environ.get("NO_COLOR")
    return [
        _add_area,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, pad_level=False, timestamp_key="time"),
    ]


def _add_area(logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    event.setdefault("area", logger.area)
    return event


class _JsonLine:
    """
    Renders an event as one line of JSON, in one step.

    Args:
        now: The time in nanoseconds since 1970.
    """

    def __init__(self, now: Callable[[], int] = time.time_ns) -> None:
        self.now = now
        self._second = -1
        self._second_text = ""

    def __call__(self, logger: "WrappedLogger", method: str, event: "EventDict") -> str:
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, method, event)
        level = _LEVEL_OF_METHOD.get(method, method)
        return self.line(self.now(), level, logger.area, event.pop("event"), event)

    def line(self, when: int, level: str, area: str, event: str, fields: "Mapping[str, object]") -> str:
        """Render a line; an ``area`` among the fields stands in the place of the logger's."""
        return _dumps({"time": self._time(when), "level": level, "area": area, "event": event, **fields})

    def _time(self, when: int) -> str:
        """Return a time by RFC 3339, in UTC; the text of a second is made once, for it is the dear part."""
        second, rest = divmod(when, 1_000_000_000)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        # To format six digits would take twice as long.
        return f"{self._second_text}.{str(rest // 1000).zfill(6)}Z"


class _Call(NamedTuple):
    """The line of a call, not yet rendered: that is for when the answer has left."""

    render: _JsonLine
    when: int
    area: str
    facts: "Mapping[str, object]"

    def line(self) -> str:
        return self.render.line(self.when, "info", self.area, "call", self.facts)


class _ShortWay(structlog.BoundLoggerBase):
    """What the logger of a JSON log has besides structlog's own methods."""

    _processors: "list[Processor]"

    def write_call(self, facts: "Mapping[str, object]") -> None:
        """Write the line of a call, past structlog's chain where that holds nothing but our JSON."""
        render = self._processors[0]
        # ``structlog.testing.capture_logs`` puts its own processor into the list, and has it taken out again.
        if isinstance(render, _JsonLine) and not self._context:
            _output.take(_Call(render, render.now(), self._logger.area, facts))
        else:
            self._proxy_to_logger("info", "call", **facts)


def _dumps(line: dict[str, object]) -> str:
    if _HAS_ORJSON:
        try:
            return orjson.dumps(line, default=repr).decode()
        except TypeError:
            pass  # A surrogate, or a number of more than 64 bits: the slower one takes everything.
    return json.dumps(line, default=repr)


class _Output:
    """
    Where every logger of the process writes: one place, so that loggers made earlier follow a change.

    Args:
        stream: Where lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._later: Callable[[Callable[[], None]], object] | None = None
        self._thread = 0  # that of the event loop
        self._waiting: list[str | _Call] = []

    def join(self, later: Callable[[Callable[[], None]], object]) -> None:
        self._later = later
        self._thread = threading.get_ident()

    def part(self) -> None:
        self._later = None
        self.flush()

    def take(self, line: str | _Call) -> None:
        """Take a line that may wait."""
        if self._later is None or threading.get_ident() != self._thread:
            self._write_all([line])
            return
        if not self._waiting:
            self._later(self.flush)
        self._waiting.append(line)

    def take_now(self, line: str) -> None:
        """Take a line that must not be lost, whatever happens next."""
        if threading.get_ident() == self._thread:
            self.flush()
        self._write_all([line])

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._write_all(waiting)

    def _write_all(self, lines: Sequence[str | _Call]) -> None:
        texts = [line if isinstance(line, str) else line.line() for line in lines]
        try:
            self.stream.write("\n".join(texts) + "\n")
            self.stream.flush()
        except (OSError, ValueError):
            # The log's reader has gone (closed pipe, full disk): calls go on, and nobody is left to tell.
            return


_output = _Output(sys.stderr)
atexit.register(_output.part)


class _Writer:
    """The end of a logger's chain: takes a finished line and writes it whole."""

    def __init__(self, area: str = "sallyport") -> None:
        self.area = area
        self.msg = self.debug = self.info = _output.take
        self.warning = self.warn = self.error = self.critical = self.exception = _output.take_now


class _FromLibraries(logging.Handler):
    """Hands what libraries log to structlog; never their arguments apart, only the message that they made."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: MutableMapping[str, object] = {"area": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), **fields)
