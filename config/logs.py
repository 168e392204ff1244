"""
structlog, set up from the ``log:`` section.

One line an event, on standard error: text for people on a terminal, otherwise JSON with ``time``, ``level``,
``area``, ``event`` and the event's own fields. What libraries log through ``logging`` at warning or above
takes the same way, so that a log has one format.

Every call is a line, so a line has to be cheap. JSON is made in one step instead of structlog's usual five
(``_JsonLine``), and a process with an event loop writes the lines of ``JOINED_SECONDS`` with one system call
(``joined_lines``). Of the line of a call only the moment is taken down while somebody waits for the call
(``CallLog``): what there is to say of it is put together and rendered when the line is written. A warning
is written at once, with all that stands before it; what ends a process without asking it, SIGKILL or the
kernel, takes the lines of that moment with it.

Nothing here hides anything: no secret, key, payload, header value or query string may be given to a logger
in the first place.
"""

import atexit
import json
import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeVarTuple

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
LINES_AT_ONCE = 64
"""Lines written before calls get their turn again: to render 500 takes a millisecond, and all would wait."""
_Settled = TypeVarTuple("_Settled")
_everywhere: dict[str, object] = {}  # what every line says
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
    is_for_calls = not is_text and level <= logging.INFO
    structlog.configure(
        processors=_text(is_terminal=is_terminal) if is_text else [_JsonLine()],
        wrapper_class=type("JsonLogger", (_JsonLogger, filtering), {}) if is_for_calls else filtering,
        logger_factory=_Writer,
        # One line a call is logged: binding a logger anew each time would cost as much as the line itself.
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(level, logging.WARNING), force=True)


def share_log(**fields: object) -> None:
    """
    Note that other processes write to the same log: lines say from whom they are, and are not torn apart.

    A file takes any write whole; a pipe or a socket that is nearly full may take a part of it, then what
    another process writes, then the rest.

    Args:
        fields: What every line of this process says from now on.
    """
    _everywhere.update(fields)
    _output.is_shared = not _is_file(_output.stream)


@contextmanager
def joined_lines(call_later: Callable[[float, Callable[[], None]], object]) -> Iterator[None]:
    """
    Write lines together, a moment later, until the block is left; what is still there is written then.

    Args:
        call_later: That of the running event loop. Lines of other threads are written as they come.
    """
    _output.join(call_later)
    try:
        yield
    finally:
        _output.part()


class CallLog:
    """
    Writes the lines of calls: what ``log.info("call", …)`` does, at a fraction of its price.

    To be used on the event loop's thread where lines are joined. Like any logger of ours it keeps to the
    setup that it found when it first wrote.

    Args:
        area: That of its lines.
    """

    def __init__(self, area: str) -> None:
        self._area = area
        self._log: FilteringBoundLogger = structlog.get_logger(area)
        self._processors: list[Processor] = []  # structlog's own list, once it is known to be the JSON log's

    def write(self, facts: Callable[[*_Settled], Mapping[str, object]], /, *settled: *_Settled) -> None:
        """
        Write the line of a call.

        Args:
            facts: Returns the event's own fields, in the order of the line; no ``exc_info`` among them. As a
                rule it is called a moment later, when the line is written.
            settled: What it is called with. Nothing of it may change any more.
        """
        processors = self._processors
        # ``structlog.testing.capture_logs`` puts its own processor into the list, and has it taken out again.
        if not processors or type(render := processors[0]) is not _JsonLine:
            self._write_long(facts(*settled))
            return
        call: _Call = (render, render.now(), self._area, facts, settled)
        if _output.waiting:
            _output.waiting.append(call)  # They are about to be written.
        else:
            _output.take(call)

    def _write_long(self, facts: Mapping[str, object]) -> None:
        """Write a line by structlog's chain, and find out whether the next may go past it."""
        # ``_log`` is a proxy that has a logger from the first ``bind`` on.
        logger = self._log.bind()
        if isinstance(logger, _JsonLogger):
            self._processors = logger._processors
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
    return {"area": logger.area, **_everywhere, **event}


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
        time_text = self._time(when)
        return _dumps(
            {"time": time_text, "level": level, "area": area, "event": event, **_everywhere, **fields}
        )

    def _time(self, when: int) -> str:
        """Return a time by RFC 3339, in UTC; the text of a second is made once, for it is the dear part."""
        second, rest = divmod(when, 1_000_000_000)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        # To format six digits would take twice as long.
        return f"{self._second_text}.{str(rest // 1000).zfill(6)}Z"


# The line of a call, not yet rendered: by what, when it was, its area, and what ``CallLog.write`` was given.
_Call = tuple[_JsonLine, int, str, Callable[..., Mapping[str, object]], tuple[object, ...]]


def _line(line: str | _Call) -> str:
    if isinstance(line, str):
        return line
    render, when, area, facts, settled = line
    return render.line(when, "info", area, "call", facts(*settled))


class _JsonLogger(structlog.BoundLoggerBase):
    """A logger whose chain is nothing but our JSON, and which lets information pass: see ``CallLog``."""

    _processors: "list[Processor]"


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

    Attributes:
        waiting: Lines that are written a moment later; there are some only while that is due.
        is_shared: Whether other processes write to the same pipe or socket.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_shared = False
        self.waiting: list[str | _Call] = []
        self._later: Callable[[float, Callable[[], None]], object] | None = None
        self._thread = 0  # that of the event loop

    def join(self, later: Callable[[float, Callable[[], None]], object]) -> None:
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
        if not self.waiting:
            self._later(JOINED_SECONDS, self._write_some)
        self.waiting.append(line)

    def take_now(self, line: str) -> None:
        """Take a line that must not be lost, whatever happens next."""
        if threading.get_ident() == self._thread:
            self.flush()
        self._write_all([line])

    def flush(self) -> None:
        """Write what waits."""
        waiting, self.waiting = self.waiting, []
        if waiting:
            self._write_all(waiting)

    def _write_some(self) -> None:
        """Write what has waited longest, and the rest when calls have had their turn."""
        some, self.waiting = self.waiting[:LINES_AT_ONCE], self.waiting[LINES_AT_ONCE:]
        if some:
            self._write_all(some)
        if self.waiting and self._later is not None:
            self._later(0.0, self._write_some)

    def _write_all(self, lines: Sequence[str | _Call]) -> None:
        texts = [f"{_line(line)}\n" for line in lines]
        try:
            for piece in _pieces(texts) if self.is_shared else ["".join(texts)]:
                self.stream.write(piece)
                self.stream.flush()
        except (OSError, ValueError):
            # The log's reader has gone (closed pipe, full disk): calls go on, and nobody is left to tell.
            return


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # It has no descriptor, as in tests: nothing says that it takes a write whole.
        return False


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Join lines to what a full pipe still takes whole: others' lines stand between ours and never in one."""
    piece, size = "", 0
    for line in lines:
        length = len(line.encode(errors="surrogatepass"))
        if piece and size + length > select.PIPE_BUF:
            yield piece
            piece, size = "", 0
        piece += line
        size += length
    yield piece


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
