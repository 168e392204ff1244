"""
What the gateway's HTTP hop costs, in function calls, which do not depend on the machine's speed.

Reading, identity, routing, policy, the new head and the call's line in the log together: for a request whose
head is known on its connection, as most are, and for one that has to be judged from its first byte.
"""

import asyncio
import io
import sys
from collections.abc import Iterator
from types import FrameType

import anyio
import pytest
import structlog

from sallyport.config.logs import CallLog, configure_logging, joined_lines
from sallyport.config.sections import LogConfig
from sallyport.gateway import exchange
from tests.harness.http_path import HOST, HttpPath

pytestmark = pytest.mark.anyio

_MARGIN = 1.08
# Function calls, ours and Python's own, of one call with a known head, and of one with a new head.
_KNOWN, _NEW = 76, 424

_ROUNDS = 50
_BODY = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi"}}}'
_RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hello"}]}}'


def request(number: int, *, is_known: bool) -> bytes:
    """Make a request as MCP clients do; a new head differs from all others in one field."""
    lines = [
        "POST /mcp HTTP/1.1",
        f"Host: {HOST}",
        "Accept: application/json, text/event-stream",
        "Content-Type: application/json",
        "Mcp-Session-Id: 0123456789abcdef0123456789abcdef",
        f"Traceparent: 00-{0 if is_known else number:032x}-00f067aa0ba902b7-01",
        f"Content-Length: {len(_BODY)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + _BODY


def answer(number: int, *, is_known: bool) -> bytes:
    """Make an answer as uvicorn does."""
    second = 0 if is_known else number
    head = f"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 12:00:{second:02}\r\nserver: uvicorn\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(_RESULT)}\r\n\r\n"
    return head.encode() + _RESULT


class Counter:
    """Counts function calls while it is entered."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> "Counter":
        self._outer = sys.getprofile()
        sys.setprofile(self._happened)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._outer)

    def _happened(self, frame: FrameType, event: str, arg: object) -> None:
        self.calls += event in ("call", "c_call")


@pytest.fixture(autouse=True)
def _logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # It keeps to the setup that it finds, which is that of this test alone.
    monkeypatch.setattr(exchange, "calls", CallLog("sallyport.gateway"))
    configure_logging(LogConfig(format="json"), io.StringIO())
    with joined_lines(lambda _seconds, _write: None):
        yield
    structlog.reset_defaults()


@pytest.mark.parametrize(("is_known", "most"), [(True, _KNOWN), (False, _NEW)])
async def test_a_call_takes_no_more_function_calls(is_known: bool, most: int) -> None:
    """A call through the gateway's HTTP costs as many function calls as it did, within the margin."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        path = HttpPath(loop, tasks.create_task)
        path.caller.data_received(request(0, is_known=True))
        with anyio.fail_after(5):
            await path.dialled.wait()
        assert path.server is not None
        path.server.data_received(answer(0, is_known=True))
        counter = Counter()
        for number in range(1, _ROUNDS + 1):
            asked, answered = request(number, is_known=is_known), answer(number, is_known=is_known)
            with counter:
                path.caller.data_received(asked)
                path.server.data_received(answered)
        path.close()
    assert len(path.to_server.written) == len(path.to_caller.written) == _ROUNDS + 1
    assert path.to_caller.written[-1].endswith(_RESULT)
    found = counter.calls / _ROUNDS
    assert found <= most * _MARGIN, (
        f"one call costs {found:.1f} function calls at the gateway's HTTP hop, and {most} is the figure to "
        "hold: if the change is worth it, put the new figure at the top of this file"
    )
