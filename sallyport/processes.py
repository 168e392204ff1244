"""
Parts of the product as processes of their own, for the demo: started, listened to, and ended by their id.

Each gets a session of its own, so that Ctrl-C on the terminal reaches the demo only, which then ends the
parts in the reverse order of their start: nothing is left behind, whatever happened.
"""

import json
import os
import random
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from sallyport.errors import DemoFailed

LogLine = Mapping[str, object]

_REMEMBERED = 200  # log lines of a part; the demo makes a dozen
_TOLD = 5  # of them, when the part failed
_LONGEST_LINE = 64 * 1024  # bytes
_PATIENCE = 30.0  # seconds that a part may take to come up, on a slow machine
_PORTS = range(20_000, 30_000)  # registered ones, little used; below what Linux, macOS and BSD give out
_GRACE = 5.0  # seconds between asking a part to end and ending it

# From anywhere, so that two programs rarely try the same ones, and in a row, so that none is given twice.
_candidates = islice(cycle(_PORTS), random.randrange(len(_PORTS)), None)


class Part:
    """
    A running part.

    Args:
        name: the hop's name in what users read.
        process: the process; its standard error is the log.
    """

    def __init__(self, name: str, process: anyio.abc.Process) -> None:
        self.name = name
        self._process = process
        self._lines: deque[str] = deque(maxlen=_REMEMBERED)
        self._changed = anyio.Event()
        self._has_ended = False

    async def wait_for(self, event: str, **fields: object) -> LogLine:
        """
        Return the last log line of ``event`` whose fields have these values, as soon as there is one.

        Raises:
            DemoFailed: the part ended without it, or took too long.
        """
        with anyio.move_on_after(_PATIENCE):
            while not (found := self.events(event, **fields)):
                if self._has_ended:
                    raise self._failure(f"ended with status {await self._process.wait()}")
                await self._changed.wait()
            return found[-1]
        raise self._failure(f"did not get as far as {event!r} within {_PATIENCE:.0f} s")

    def events(self, event: str, **fields: object) -> list[LogLine]:
        """Return the log lines of ``event`` so far whose fields have these values."""
        wanted = {"event": event, **fields}.items()
        return [line for line in map(_parse, self._lines) if wanted <= line.items()]

    def last_lines(self, count: int) -> tuple[str, ...]:
        """Return the end of the log, each line with the part's name before it."""
        return tuple(f"{self.name}: {line}" for line in tuple(self._lines)[-count:])

    async def wait_for_failure(self) -> None:
        """
        Wait until the part ends by itself, which none should.

        Raises:
            DemoFailed: always.
        """
        raise self._failure(f"ended with status {await self._process.wait()}")

    async def end(self) -> None:
        """Ask it to end; insist when it does not. Cancellation does not get in between."""
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.terminate()
            with anyio.move_on_after(_GRACE):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def read_log(self) -> None:
        """Take in the log until the process closes it."""
        if self._process.stderr is None:
            raise AssertionError("a part is started with a pipe for its log")
        stream = BufferedByteReceiveStream(self._process.stderr)
        try:
            while True:
                line = await stream.receive_until(b"\n", _LONGEST_LINE)
                self._lines.append(line.decode(errors="replace"))
                self._tell()
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
            self._has_ended = True
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _failure(self, reason: str) -> DemoFailed:
        return DemoFailed(self.name, reason, tuple(self._lines)[-_TOLD:])


class Parts:
    """
    The parts that run while the block runs: ``async with Parts(folder) as parts``.

    Args:
        folder: the working directory of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Part] = []
        self._readers = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._readers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        while self._running:
            await self._running.pop().end()
        self._readers.cancel_scope.cancel()
        return await self._readers.__aexit__(kind, error, trace)

    def __iter__(self) -> Iterator[Part]:
        return iter(tuple(self._running))

    async def start(self, name: str, *arguments: str | Path) -> Part:
        """
        Start ``python -m …`` and listen to its log.

        Args:
            name: the hop's name in what users read.
            arguments: the module and what it is given.
        """
        process = await anyio.open_process(
            _command(arguments),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=_environment(),
        )
        part = Part(name, process)
        self._running.append(part)
        self._readers.start_soon(part.read_log)
        return part

    async def end(self, part: Part) -> None:
        """End one part before the others."""
        self._running.remove(part)
        await part.end()

    async def run(self, name: str, *arguments: str | Path) -> str:
        """
        Run ``python -m …``, which ends by itself, and return what it printed.

        Raises:
            DemoFailed: it ended with another status than 0.
        """
        done = await anyio.run_process(
            _command(arguments), cwd=self.folder, stdin=subprocess.DEVNULL, check=False, env=_environment()
        )
        if done.returncode != 0:
            log = tuple(done.stderr.decode(errors="replace").splitlines())[-_TOLD:]
            raise DemoFailed(
                name, f"`{' '.join(map(str, arguments))}` ended with status {done.returncode}", log
            )
        return done.stdout.decode()


def _command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def _environment() -> dict[str, str]:
    # The key that a user has set for a real tunnel has no part in the demo.
    return {name: value for name, value in os.environ.items() if name != "SALLYPORT_KEY"}


def _parse(line: str) -> dict[str, object]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}  # a traceback, or a library's own words: kept for the failure, no event
    return parsed if isinstance(parsed, dict) else {}


def free_port() -> int:
    """
    Return a port of this machine's loopback interface on which nobody listens, another one each time.

    It is not one of those that systems give out by themselves: between now and the moment when a part listens
    there, somebody's outgoing connection would be given it.

    Raises:
        OSError: None of the hundred that were tried is free.
    """
    for _ in range(99):
        port = next(_candidates)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    with socket.create_server(("127.0.0.1", port := next(_candidates))):
        return port
