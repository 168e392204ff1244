"""
Starts a load program as a child, talks to it in lines of JSON, and ends it.

What it must know comes as its first line of input and not as arguments: an API key is among it.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.report import say
from bench.speed.load.callers import LoadFailed

CHECKOUT = Path(__file__).resolve().parents[3]
_END_LIMIT = 10.0  # seconds to close some thousand connections before it is killed


class LoadProgram:
    """
    One running load program, ended when its context is left.

    Args:
        name: Its module below ``bench.speed.load``.
        task: Its first line.
    """

    def __init__(self, name: str, task: Mapping[str, object]) -> None:
        self._name = name
        self._heard = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"bench.speed.load.{name}"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.tell(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def tell(self, message: Mapping[str, object]) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise LoadFailed(f"{self._name} ended early, exit {self._process.poll()}") from error

    def hear(self, limit: float) -> dict[str, Any]:
        """
        Wait for its next line.

        Args:
            limit: In seconds.

        Raises:
            LoadFailed: It said that it failed, ended, or was silent for too long.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise LoadFailed(f"{self._name} said nothing for {limit:.0f} s")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise LoadFailed(f"{self._name} ended early")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "failed" in message:
            raise LoadFailed(f"{self._name}: {message['failed']}")
        return message

    def end(self) -> None:
        """Close its input, which ends it, and kill it where that does not."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def read_task() -> dict[str, Any]:
    """Return the next line that the starter sent; empty when it is gone."""
    line = sys.stdin.readline()
    task: dict[str, Any] = json.loads(line) if line else {}
    return task


def report(**fields: object) -> None:
    """Say one line to the starter."""
    say(json.dumps(fields))
