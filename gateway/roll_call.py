"""
How the workers of one gateway tell each other how they are, for ``/status`` and ``/readyz``.

Worker 0 listens for health. When it is asked, it asks each other worker that runs over a socket pair that the
first process made (``workers``), and waits a moment for what they say. Nothing is said unasked: an idle
gateway sleeps.

A question is a word of chance, and an answer repeats it: what a worker says too late, or to a worker 0 that
was there before, is not taken for the answer to another question. A message is a whole one or none
(SOCK_SEQPACKET).
"""

import asyncio
import errno
import json
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from sallyport.gateway.whole_status import Absence, Report
from sallyport.tunnel.limits import KIB, limit

log = structlog.get_logger("sallyport.gateway")

_ANSWER_TIMEOUT: Final = limit(
    0.5, "seconds",
    "that a gateway's /status and /readyz wait for its other workers, half of what a supervisor usually "
    "waits for an answer; one that is silent is named",
)  # fmt: skip
_REPORT_MAX: Final = limit(
    200 * KIB, "bytes",
    "of what a worker says of itself to another: some hundred bytes for each server; the kernel takes no "
    "longer message over a socket pair with its usual settings",
)  # fmt: skip


class RollCall:
    """
    Worker 0's side: asks the others.

    Args:
        wires: To each of them, in the order of their indices.
        runs: Says by its index whether a worker runs: one that has ended would not answer.
        loop: The running loop.
    """

    def __init__(
        self,
        wires: Sequence[socket.socket],
        *,
        runs: Callable[[int], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._wires = wires
        self._runs = runs
        self._loop = loop
        self._one_at_a_time = anyio.Lock()
        self._question = ""
        self._reports: list[Report | Absence] = []
        self._is_complete = anyio.Event()
        for place, wire in enumerate(wires):
            loop.add_reader(wire.fileno(), self._hear, place)

    async def ask(self) -> list[Report | Absence]:
        """Return what each of the others says, in the order of their indices, or why it says nothing."""
        if not self._wires:
            return []
        async with self._one_at_a_time:
            self._question = secrets.token_hex(8)
            self._reports = [
                Absence.SILENT if self._runs(index) else Absence.ENDED
                for index, _ in enumerate(self._wires, start=1)
            ]
            self._is_complete = anyio.Event()
            for wire, report in zip(self._wires, self._reports, strict=True):
                if report is Absence.SILENT:
                    _say(wire, self._question.encode())
            with anyio.move_on_after(_ANSWER_TIMEOUT):
                if Absence.SILENT in self._reports:
                    await self._is_complete.wait()
            return self._reports

    def close(self) -> None:
        """Listen no more."""
        for wire in self._wires:
            self._loop.remove_reader(wire.fileno())

    def _hear(self, place: int) -> None:
        answer = _hear(self._wires[place])
        if not answer:
            if answer is not None:  # The first process is gone, and so is everybody in a moment.
                self._loop.remove_reader(self._wires[place].fileno())
            return
        said = json.loads(answer)
        if said["question"] == self._question:
            self._reports[place] = said["report"]
            if Absence.SILENT not in self._reports:
                self._is_complete.set()


class RollAnswer:
    """
    The side of every other worker: answers when it is asked.

    Args:
        wire: To worker 0.
        describe: Says how this worker is.
        loop: The running loop.
    """

    def __init__(
        self, wire: socket.socket, describe: Callable[[], Report], *, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._wire = wire
        self._describe = describe
        self._loop = loop
        loop.add_reader(wire.fileno(), self._answer)

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._wire.fileno())

    def _answer(self) -> None:
        question = _hear(self._wire)
        if question:
            said = {"question": question.decode(), "report": self._describe()}
            _say(self._wire, json.dumps(said).encode())
        elif question is not None:
            self._loop.remove_reader(self._wire.fileno())


def _say(wire: socket.socket, message: bytes) -> None:
    try:
        if len(message) > _REPORT_MAX:
            raise OSError(errno.EMSGSIZE, "too long")
        wire.send(message)
    except OSError as error:  # Or the other end has not listened for long, or has gone: this one is silent.
        log.warning("a worker cannot tell another how it is", bytes=len(message), reason=error.strerror)


def _hear(wire: socket.socket) -> bytes | None:
    """Return one message, b"" at the end, None when there is none after all."""
    try:
        return wire.recv(_REPORT_MAX)
    except BlockingIOError:
        return None
    except ConnectionError:  # The other end has gone with a message of ours unread.
        return b""
