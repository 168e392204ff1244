"""The demo shows a call through all of it, names the hop that fails, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

_READY = "Ctrl-C ends it"


class _Demo:
    """A demo that runs, with a temporary folder of its own to leave clean."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sallyport", "demo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "NO_COLOR": "1"},
        )

    def read_until(self, text: str) -> str:
        """Return what was printed up to and with the line that holds ``text``."""
        assert self.process.stdout is not None
        printed = ""
        for line in self.process.stdout:
            printed += line
            if text in line:
                return printed
        raise AssertionError(f"it ended without {text!r}:\n{printed}\n{_rest(self.process.stderr)}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal, if any, and return the exit status and what was still printed."""
        if number is not None:
            self.process.send_signal(number)
        printed, errors = self.process.communicate(timeout=50)
        return self.process.returncode, printed, errors

    def parts(self) -> list[psutil.Process]:
        """Return the processes that work in the demo's folder."""
        return [process for process in psutil.process_iter() if str(self.folder) in _working_folder(process)]

    def assert_nothing_is_left(self) -> None:
        assert list(self.folder.iterdir()) == []
        assert self.parts() == []


def _rest(stream: IO[str] | None) -> str:
    return stream.read() if stream is not None else ""


def _working_folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return ""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., _Demo]]:
    """Start demos, and end at the test's end what is still running."""
    started: list[_Demo] = []

    def start(*arguments: str) -> _Demo:
        started.append(_Demo(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGTERM)
        for stream in (each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()


Start = Callable[..., _Demo]


def test_once(demo: Start) -> None:
    """The answer, the ID, the times, both logs side by side; status 0, and the machine as it was."""
    running = demo("--once")
    status, printed, errors = running.end()
    assert (status, errors) == (0, "")
    assert "ticket 7: the coffee machine" in printed
    assert re.search(r"tunnel +tnl_[a-z2-7]{32}", printed)
    assert re.search(r"time +\d+ ms, \d+\.\d s from nothing", printed)
    assert re.search(r"the relay saw .* the gateway saw", printed)
    assert "cert:agent" in printed
    running.assert_nothing_is_left()


def test_it_stays_up_until_ctrl_c(demo: Start) -> None:
    """The snippet names an endpoint that answers; Ctrl-C is its normal end."""
    running = demo()
    printed = running.read_until(_READY)
    url = re.search(r"claude mcp add --transport http tickets (http://127\.0\.0\.1:\d+/mcp)", printed)
    assert url is not None
    assert _tools_at(url[1]) == "read_ticket"
    status, _printed, errors = running.end(signal.SIGINT)
    assert (status, errors) == (0, "")
    running.assert_nothing_is_left()


def test_own_server(demo: Start) -> None:
    """``--server`` puts the tunnel before a server that runs already, and lists its tools."""
    other = demo()
    url = re.search(r"(http://127\.0\.0\.1:\d+/mcp)", other.read_until(_READY))
    assert url is not None
    running = demo("--once", "--server", url[1])
    status, printed, errors = running.end()
    assert (status, errors) == (0, "")
    assert re.search(r"answer +read_ticket", printed)


def test_server_that_is_not_there(demo: Start) -> None:
    """The hop that fails is named, with its last words, and the status is no success."""
    running = demo("--once", "--server", "http://127.0.0.1:9/mcp")
    status, printed, errors = running.end()
    assert (status, printed) == (1, "")
    assert errors.startswith("error: call: ")
    assert "refused the connection" in errors
    assert "Traceback" not in errors
    running.assert_nothing_is_left()


def test_port_in_use(demo: Start) -> None:
    """A connector that cannot listen is named, in its own words."""
    first = demo()
    port = re.search(r"http://127\.0\.0\.1:(\d+)/mcp", first.read_until(_READY))
    assert port is not None
    status, _printed, errors = demo("--once", "--port", port[1]).end()
    assert status == 1
    assert errors.startswith("error: connector: ended with status 1")
    assert port[1] in errors


def test_ending_it_on_the_way_up(demo: Start) -> None:
    """SIGTERM before the answer ends what has come up so far."""
    running = demo()
    _wait_for_a_part(running)
    status, printed, errors = running.end(signal.SIGTERM)
    assert (status, printed, errors) == (130, "", "")
    running.assert_nothing_is_left()


def test_reader_that_leaves(demo: Start) -> None:
    """``sallyport demo | head -1`` cleans up as well."""
    running = demo("--once")
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(50) == 141
    assert _rest(running.process.stderr) == ""
    running.assert_nothing_is_left()


def test_part_that_dies(demo: Start) -> None:
    """A gateway that is gone ends the demo, by its name."""
    running = demo()
    running.read_until(_READY)
    (gateway,) = (
        part
        for part in running.parts()
        if "gateway" in part.cmdline() and part.ppid() == running.process.pid  # and not one of its workers
    )
    gateway.kill()
    status, _printed, errors = running.end()
    assert status == 1
    assert errors.startswith("error: gateway: ended with status -9")
    running.assert_nothing_is_left()


def _wait_for_a_part(running: _Demo) -> None:
    while not running.parts():
        assert running.process.poll() is None


def _tools_at(url: str) -> str:
    code = (
        "import sys, anyio\nfrom mcp import Client\n"
        "async def main():\n async with Client(sys.argv[1]) as client:\n"
        "  print(*(tool.name for tool in (await client.list_tools()).tools))\n"
        "anyio.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()
