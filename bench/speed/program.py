"""
Programs under test: started with their output in a file, waited for, ended by their id.

The output goes straight into a file, as a service manager would have it, and not through a pipe that a thread
of the benchmark empties: while the machine is measured, the benchmark itself should cost it nothing.
"""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

LOOPBACK: Final = "127.0.0.1"

_PATIENCE: Final = 20.0  # seconds to come up, on a machine that does other things too
_LOOK_INTERVAL: Final = 0.02  # seconds
_GRACE: Final = 5.0  # seconds between asking a program to end and ending it
_TOLD: Final = 15  # lines of a failed program's output


class ProgramFailed(Exception):
    """A program did not come up; the text ends with what it said."""


class Program:
    """
    One running program; it is ended when the context is left.

    Args:
        name: Names it in messages, and its output ``<name>.log``.
        arguments: The command line.
        folder: Where it runs.
        environment: Variables set beside the benchmark's own.
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
        self.log = folder / f"{name}.log"
        # Ten thousand streams need descriptors, and not every peer raises its own limit.
        self.descriptor_limit()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(argument) for argument in arguments],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @staticmethod
    def descriptor_limit() -> int:
        """Raise this process's limit, which programs inherit, to the hard one and return it."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tree(self) -> list[int]:
        """Return its id and those of all processes below it."""
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]

    def wait_for(self, text: str, *, within: float = _PATIENCE) -> None:
        """
        Wait until its output holds a text.

        Raises:
            ProgramFailed: It ended first, or ``within`` seconds are over.
        """
        deadline = time.monotonic() + within
        while text not in self.log.read_text(errors="replace"):
            self.require_alive(deadline, f"without saying {text!r}")
            time.sleep(_LOOK_INTERVAL)

    def wait_for_child(self, *, within: float = _PATIENCE) -> int:
        """
        Wait until it has started a process below it, and return that one's id.

        Raises:
            ProgramFailed: It ended first, or ``within`` seconds are over.
        """
        deadline = time.monotonic() + within
        while len(tree := self.tree()) == 1:
            self.require_alive(deadline, "without a worker")
            time.sleep(_LOOK_INTERVAL)
        return tree[1]

    def require_alive(self, deadline: float, what: str) -> None:
        """
        Raise unless it runs and there is still time.

        Args:
            deadline: By ``time.monotonic``.
            what: How the message goes on after "ended" or "is not up".

        Raises:
            ProgramFailed: It ended, or the deadline is over.
        """
        code = self._process.poll()
        if code is not None:
            raise ProgramFailed(f"{self.name} ended with status {code} {what}\n{self._last_words()}")
        if time.monotonic() > deadline:
            raise ProgramFailed(f"{self.name} is not up {what}\n{self._last_words()}")

    def end(self) -> None:
        """Ask it to end, and insist."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TOLD:])


def free_port() -> int:
    """Return a port of the loopback interface that the system says is free."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, program: Program, *, within: float = _PATIENCE) -> None:
    """
    Wait until somebody listens on a port of the loopback interface.

    Args:
        port: The port.
        program: On whom it depends.
        within: Seconds.

    Raises:
        ProgramFailed: ``program`` ended first, or the time is over.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            program.require_alive(deadline, f"and nobody listens on port {port}")
            time.sleep(_LOOK_INTERVAL)
        else:
            return
