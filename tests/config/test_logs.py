"""The log has one format, whoever writes to it."""

import io
import json
import logging
import select
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import structlog
from structlog.testing import capture_logs

from sallyport.config import logs
from sallyport.config.logs import LINES_AT_ONCE, CallLog, configure_logging, joined_lines, share_log
from sallyport.config.sections import LogConfig

CALL = {"call": "00.1", "caller": "cert:alice", "status": 200, "ms": 1.2, "outcome": "answered"}
"""Some of what is said of a call."""


def facts_of(status: int, outcome: str) -> dict[str, object]:
    """Return the facts of the call from what was settled about it."""
    return CALL | {"status": status, "outcome": outcome}


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


class _Counting(io.StringIO):
    """Counts how often it is written to."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def events_of(stream: io.StringIO) -> list[str]:
    """Return the events of the lines that were written."""
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


class _Later:
    """What an event loop was asked to call later."""

    def __init__(self) -> None:
        self.writes: list[Callable[[], None]] = []

    def __call__(self, seconds: float, write: Callable[[], None]) -> None:
        assert 0 <= seconds < 0.1
        self.writes.append(write)


def test_lines_of_a_moment_are_written_together() -> None:
    """One system call for many calls, when the loop says that the moment is over."""
    stream, later = _Counting(), _Later()
    configure_logging(LogConfig(format="json"), stream)
    with joined_lines(later):
        log = structlog.get_logger("sallyport.gateway")
        log.info("one")
        log.info("two")
        assert (events_of(stream), len(later.writes)) == ([], 1)

        later.writes.pop()()
        assert (events_of(stream), stream.writes) == (["one", "two"], 1)

        log.info("three")
    log.info("four")
    assert events_of(stream) == ["one", "two", "three", "four"]


def test_a_burst_is_written_in_turns() -> None:
    """Calls get their turn between two parts of it, a warning does not wait for any, and the order stays."""
    stream, later = _Counting(), _Later()
    configure_logging(LogConfig(format="json"), stream)
    numbers = [str(number) for number in range(2 * LINES_AT_ONCE + 2)]
    with joined_lines(later):
        log = structlog.get_logger("sallyport.gateway")
        for number in numbers[:-1]:
            log.info(number)
        later.writes.pop()()
        assert (events_of(stream), stream.writes) == (numbers[:LINES_AT_ONCE], 1)
        assert len(later.writes) == 1
        later.writes.pop()()
        assert events_of(stream) == numbers[: 2 * LINES_AT_ONCE]
        log.warning(numbers[-1])
        assert events_of(stream) == numbers
        later.writes.pop()()
    assert (events_of(stream), later.writes) == (numbers, [])


def test_a_warning_does_not_wait() -> None:
    """What stands before it goes first, so that the order stays."""
    stream = io.StringIO()
    configure_logging(LogConfig(format="json"), stream)
    with joined_lines(_Later()):
        log = structlog.get_logger("sallyport.gateway")
        log.info("one")
        log.warning("two")
        assert events_of(stream) == ["one", "two"]


def test_other_threads_write_their_lines_themselves() -> None:
    """The loop's timers are for its own thread."""
    stream, later = io.StringIO(), _Later()
    configure_logging(LogConfig(format="json"), stream)
    with joined_lines(later):
        log = structlog.get_logger("sallyport.gateway")
        thread = threading.Thread(target=log.info, args=("elsewhere",))
        thread.start()
        thread.join()
        assert (events_of(stream), later.writes) == (["elsewhere"], [])


def test_nothing_is_too_odd_for_a_line() -> None:
    """A line is written whatever its values are: big numbers, half characters, objects."""
    stream = io.StringIO()
    configure_logging(LogConfig(format="json"), stream)
    structlog.get_logger("sallyport.gateway").info("odd", big=2**80, half="\ud800", thing=object)
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["big"], line["half"], line["thing"]) == (2**80, "\ud800", "<class 'object'>")


def ways(area: str = "sallyport.gateway") -> list[Callable[[], None]]:
    """List the long way, the first on the short way and the others to the same line."""
    log, calls = structlog.get_logger(area), CallLog(area)

    def write() -> None:
        calls.write(facts_of, 200, "answered")

    return [lambda: log.info("call", **CALL), write, write]


def test_the_line_of_a_call_is_that_of_any_event() -> None:
    """The short way leaves nothing out, and keeps the order."""
    stream = io.StringIO()
    configure_logging(LogConfig(format="json"), stream)
    for write in ways():
        write()
    long, *others = (json.loads(line) for line in stream.getvalue().splitlines())
    for short in others:
        assert list(short) == list(long) == ["time", "level", "area", "event", *CALL]
        assert short | {"time": ""} == long | {"time": ""}
        assert len(short["time"]) == len("2026-11-21T12:00:00.000001Z")
    assert len(others) == 2


def test_the_line_of_a_call_is_made_when_it_is_written() -> None:
    """Whoever waits for the answer does not wait for the line; its time is that of the call all the same."""
    stream, later = io.StringIO(), _Later()
    configure_logging(LogConfig(format="json"), stream)
    with joined_lines(later):
        log, calls = structlog.get_logger("sallyport.gateway"), CallLog("sallyport.gateway")
        asked: list[int] = []

        def facts(number: int) -> dict[str, object]:
            asked.append(number)
            return {"number": number}

        calls.write(facts, 0)  # the first takes the long way
        asked.clear()
        calls.write(facts, 1)
        log.info("between")
        calls.write(facts, 2)
        assert asked == []

        later.writes.pop()()
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert asked == [1, 2]
        assert [line.get("number") for line in lines] == [0, 1, None, 2]
        assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
        assert later.writes == []


def test_the_line_of_a_call_is_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not JSON goes structlog's way."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    configure_logging(LogConfig(format="text"), stream)
    for write in ways():
        write()
    long, *others = (line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines())
    assert others == [long, long]
    assert "caller=cert:alice" in long


@pytest.mark.parametrize("format_", ["json", "text"])
def test_the_line_of_a_call_has_a_level(format_: Literal["json", "text"]) -> None:
    """It is one of information, and held back by whoever wants warnings only."""
    stream = io.StringIO()
    configure_logging(LogConfig(level="warning", format=format_), stream)
    for write in ways():
        write()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("is_configured", [True, False])
def test_tests_can_capture_the_line_of_a_call(is_configured: bool) -> None:
    """``capture_logs`` works, on a logger that has written before as well; and all is as it was behind it."""
    stream = io.StringIO()
    calls = CallLog("sallyport.gateway")
    if is_configured:
        configure_logging(LogConfig(format="json"), stream)
        calls.write(facts_of, 200, "answered")
        calls.write(facts_of, 200, "answered")
    with capture_logs() as lines:
        calls.write(facts_of, 200, "answered")
    assert lines == [{"event": "call", "log_level": "info", **CALL}]
    if is_configured:
        calls.write(facts_of, 200, "answered")
        assert events_of(stream) == ["call"] * 3


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the log shared with others until the test is over."""
    monkeypatch.setattr(logs, "_everywhere", {})
    monkeypatch.setattr(logs._output, "is_shared", False)
    share_log(worker=3)


@pytest.mark.usefixtures("shared")
def test_lines_of_a_shared_log_say_whose_they_are() -> None:
    """JSON, the line of a call, and text for people."""
    stream = io.StringIO()
    configure_logging(LogConfig(format="json"), stream)
    structlog.get_logger("sallyport.gateway").info("link up")
    CallLog("sallyport.gateway").write(facts_of, 200, "answered")
    assert [json.loads(line)["worker"] for line in stream.getvalue().splitlines()] == [3, 3]

    terminal = _Terminal()
    configure_logging(LogConfig(format="text"), terminal)
    structlog.get_logger("sallyport.other").info("link up")
    assert "worker" in terminal.getvalue()


@pytest.mark.usefixtures("shared")
def test_a_shared_log_is_written_in_pieces_that_are_not_torn() -> None:
    """Whole lines, as many as a pipe takes at once, or one that is longer; bytes count."""
    pieces: list[str] = []

    class Pieces(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return super().write(text)

    configure_logging(LogConfig(format="json"), Pieces())
    with joined_lines(lambda _delay, _then: None):
        log = structlog.get_logger("sallyport.gateway")
        for number in range(LINES_AT_ONCE):
            log.info("call", number=number, text="ü" * 100)
        log.info("long", text="x" * (2 * select.PIPE_BUF))
    assert len(pieces) > 3
    assert all(piece.endswith("\n") for piece in pieces)
    assert all(len(piece.encode()) <= select.PIPE_BUF for piece in pieces[:-1])
    lines = [json.loads(line) for piece in pieces for line in piece.splitlines()]
    assert [line.get("number") for line in lines] == [*range(LINES_AT_ONCE), None]
