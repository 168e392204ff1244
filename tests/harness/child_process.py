"""
A program under test as a real process, whose log can be waited for.

Its streams go straight into files, as a service manager would have them, and not through a pipe that a thread
empties: while the machine is measured, whoever measures should cost it nothing. The log is read when somebody
asks, and parsed where a line is a JSON object. Whoever waits looks again and again under a deadline and never
sleeps for a time that should be enough. Processes are ended by their id.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]

_PATIENCE: Final = 20.0  # seconds to come up, on a machine that does other things too
_LOOK_INTERVAL: Final = 0.01  # seconds
_GRACE: Final = 5.0  # seconds between asking a process to end and ending it
_TOLD: Final = 20  # lines, the last that a process said, in the message of a failure

LogLine = dict[str, object]
T = TypeVar("T")


class NotReached(AssertionError):
    """A process did not come as far as was waited for; the text ends with what it said."""


class ChildProcess:
    """
    One running program; it is ended when its context is left.

    Args:
        name: names the process in messages, and its files: ``<name>.log`` for standard error, ``<name>.out``
            for standard output. Where these are there already, they are called ``<name>-2`` and so on.
        arguments: the command line.
        folder: where it runs and where its log is kept.
        environment: variables set beside the test's own.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log_path = _unused(folder, name)
        self._output_path = self._log_path.with_suffix(".out")
        # A long log is parsed once and not at every look, by whichever thread asks.
        self._parsing = threading.Lock()
        self._parsed_bytes = 0
        self._lines: list[LogLine] = []
        with self._log_path.open("xb") as log, self._output_path.open("xb") as output:
            self._process = subprocess.Popen(
                [str(argument) for argument in arguments],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def tree(self) -> list[int]:
        """Return its id and those of all processes below it."""
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """Everything that was logged so far."""
        return self._log_path.read_text(errors="replace")

    @property
    def output(self) -> str:
        """Everything that was printed on standard output so far."""
        return self._output_path.read_text(errors="replace")

    def events(self, event: str, **fields: object) -> list[LogLine]:
        """Return the log lines of an event whose fields have these values."""
        return [line for line in self.lines() if _matches(line, event, fields)]

    def lines(self) -> list[LogLine]:
        """Return all whole log lines that are JSON objects."""
        with self._parsing, self._log_path.open("rb") as log:
            log.seek(self._parsed_bytes)
            # What stands behind the last end of a line is still being written.
            whole, end, _ = log.read().rpartition(b"\n")
            self._parsed_bytes += len(whole + end)
            self._lines += (line for line in map(_parse, whole.split(b"\n")) if line)
            return list(self._lines)

    def wait_for(self, event: str, *, count: int = 1, within: float = _PATIENCE, **fields: object) -> LogLine:
        """
        Wait until an event was logged, and return its line.

        Args:
            event: the event's name.
            count: how many such lines there must be; the last of them is returned.
            within: seconds.
            fields: values that the line must have.

        Raises:
            NotReached: the time is over, or the process ended without it.
        """
        wanted = " ".join([event, *(f"{key}={value}" for key, value in fields.items())])

        def find() -> LogLine | None:
            found = self.events(event, **fields)
            return found[count - 1] if len(found) >= count else None

        return self._wait_until(find, f"without logging {wanted!r}", within)

    def wait_for_text(self, text: str, *, within: float = _PATIENCE) -> None:
        """
        Wait until standard error holds a text: for programs that are not ours.

        Raises:
            NotReached: the time is over, or the process ended without it.
        """
        self._wait_until(lambda: text in self.log or None, f"without saying {text!r}", within)

    def wait_for_port(self, port: int, *, within: float = _PATIENCE) -> None:
        """
        Wait until somebody listens on a port of the loopback interface.

        Raises:
            NotReached: the time is over, or the process, on which it depends, ended first.
        """

        def find() -> bool | None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return None
            return True

        self._wait_until(find, f"and nobody listens on port {port}", within)

    def wait_for_child(self) -> int:
        """
        Wait until it has started a process below it, and return that one's id.

        Raises:
            NotReached: It ended first, or took too long.
        """
        return self._wait_until(lambda: next(iter(self.tree()[1:]), None), "without a worker")

    def require_alive(self, deadline: float, lack: str) -> None:
        """
        Raise unless it runs and there is still time.

        Args:
            deadline: by ``time.monotonic``.
            lack: how the message goes on after "ended" or "took too long".

        Raises:
            NotReached: it ended, or the deadline is over.
        """
        if self.exit_code is not None or time.monotonic() > deadline:
            raise self._not_reached(lack)

    def _wait_until(self, find: Callable[[], T | None], lack: str, within: float = _PATIENCE) -> T:
        deadline = time.monotonic() + within
        while True:
            # Asked before the log is read: a process that has ended says nothing more.
            is_over = self.exit_code is not None or time.monotonic() > deadline
            found = find()
            if found is not None:
                return found
            if is_over:
                raise self._not_reached(lack)
            time.sleep(_LOOK_INTERVAL)

    def _not_reached(self, lack: str) -> NotReached:
        state = "took too long" if self.exit_code is None else f"ended with status {self.exit_code}"
        said = (self.output + self.log).splitlines()[-_TOLD:]
        return NotReached("\n".join([f"{self.name} {state} {lack}", *said]))

    def wait(self, within: float = _PATIENCE) -> int:
        """Wait for the end of the process and return the exit code."""
        return self._process.wait(within)

    def stop(self, within: float = _PATIENCE) -> int:
        """Ask the process to end (SIGTERM) and return its exit code."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self) -> None:
        """End the process without a chance to clean up (SIGKILL)."""
        self._process.kill()
        self.wait()

    def kill_all(self) -> None:
        """End it and all processes below it at once (SIGKILL), as when the power goes."""
        # They stand still first, so that none of them can act on the end of another.
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.tree():
                os.kill(pid, signum)
        self.wait()

    def end(self) -> None:
        """Make sure that the process is gone: SIGTERM, then SIGKILL."""
        try:
            self.stop(within=_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()


def sallyport_command(*arguments: str | Path) -> list[str | Path]:
    """Return the command line of ``sallyport`` in the interpreter that runs the tests."""
    return [sys.executable, "-m", "sallyport", *arguments]


def run_sallyport(
    *arguments: str | Path, folder: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command that ends by itself and return what it printed, whatever its exit code."""
    return subprocess.run(
        [str(argument) for argument in sallyport_command(*arguments)],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _unused(folder: Path, name: str) -> Path:
    """Return the path of a log that no process has written yet: two of one name may run at once."""
    stems = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for stem in stems if not (path := folder / f"{stem}.log").exists())


def _parse(line: bytes) -> LogLine:
    if not line.startswith(b"{"):
        return {}
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _matches(line: LogLine, event: str, fields: Mapping[str, object]) -> bool:
    return line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
