"""
A program under test as a real process, whose log can be waited for.

Standard error is read line by line by a thread, kept in a file, and parsed where a line is a JSON object; a
test waits for an event of the log under a deadline and never sleeps. Processes are ended by their id.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

CHECKOUT = Path(__file__).resolve().parents[2]

LogLine = dict[str, object]
T = TypeVar("T")


class NotReached(AssertionError):
    """A process did not log what was waited for; the text ends with what it did log."""


class ChildProcess:
    """
    One running program.

    Args:
        name: names the process in messages and its log file ``<name>.log``.
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
        self.log_path = folder / f"{name}.log"
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._log_ended = False
        with self.log_path.with_suffix(".out").open("ab") as output:
            self._process = subprocess.Popen(
                [str(argument) for argument in arguments],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
            )
        assert self._process.stderr is not None, "stderr was asked to be a pipe"
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True)
        self._reader.start()

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

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """Everything that was logged so far."""
        with self._changed:
            return "".join(self._lines)

    @property
    def output(self) -> str:
        """Everything that was printed on standard output so far."""
        return self.log_path.with_suffix(".out").read_text(errors="replace")

    def events(self, event: str, **fields: object) -> list[LogLine]:
        """Return the log lines of an event whose fields have these values."""
        return [line for line in self.lines() if _matches(line, event, fields)]

    def lines(self) -> list[LogLine]:
        """Return all log lines that are JSON objects."""
        with self._changed:
            return [line for line in map(_parse, self._lines) if line]

    def wait_for(self, event: str, *, count: int = 1, within: float = 20, **fields: object) -> LogLine:
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
            found = [line for line in map(_parse, self._lines) if _matches(line, event, fields)]
            return found[count - 1] if len(found) >= count else None

        return self._wait_until(find, wanted, within)

    def wait_for_text(self, text: str, *, within: float = 20) -> str:
        """
        Wait until a line of standard error holds a text, and return the line: for programs that are not ours.

        Raises:
            NotReached: the time is over, or the process ended without it.
        """

        def find() -> str | None:
            return next((line for line in self._lines if text in line), None)

        return self._wait_until(find, text, within)

    def _wait_until(self, find: Callable[[], T | None], wanted: str, within: float) -> T:
        deadline = time.monotonic() + within
        with self._changed:
            while True:
                found = find()
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self._log_ended:
                    why = "ended" if self._log_ended else f"not within {within} s"
                    raise NotReached(f"{self.name}: {wanted!r} {why}\n{''.join(self._lines[-40:])}")
                self._changed.wait(left)

    def wait(self, within: float = 20) -> int:
        """Wait for the end of the process and of its log, and return the exit code."""
        code = self._process.wait(within)
        self._reader.join(within)
        return code

    def stop(self, within: float = 20) -> int:
        """Ask the process to end (SIGTERM) and return its exit code."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self) -> None:
        """End the process without a chance to clean up (SIGKILL)."""
        self._process.kill()
        self.wait()

    def end(self) -> None:
        """Make sure that the process is gone: SIGTERM, then SIGKILL."""
        try:
            self.stop(within=5)
        except subprocess.TimeoutExpired:
            self.kill()

    def _read_log(self, stream: IO[bytes]) -> None:
        with self.log_path.open("ab") as kept, stream:
            for raw in stream:
                kept.write(raw)
                kept.flush()
                with self._changed:
                    self._lines.append(raw.decode(errors="replace"))
                    self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()


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


def _parse(line: str) -> LogLine:
    if not line.startswith("{"):
        return {}
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _matches(line: LogLine, event: str, fields: Mapping[str, object]) -> bool:
    return line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
