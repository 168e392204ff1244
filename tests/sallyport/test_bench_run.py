"""What ``sallyport bench`` asks of servers of both eras, and what it says of those that answer otherwise."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sallyport.bench_figures import Findings, Way
from sallyport.bench_lines import DirectLine
from sallyport.bench_mcp import Place
from sallyport.bench_run import Course, Measuring, prepare_server
from sallyport.errors import MeasurementFailed
from sallyport.gateway.upstream_url import UpstreamUrl

pytestmark = pytest.mark.anyio

_SESSION = {"Mcp-Session-Id": "s1"}


@dataclass
class _Asked:
    """One request, as the server has seen it."""

    method: str
    rpc: str
    number: object
    session: str | None


_Answer = tuple[int, dict[str, str], bytes]


@dataclass
class _Server:
    """An MCP server that answers as a script says."""

    url: UpstreamUrl
    script: Callable[[_Asked], _Answer] = lambda _asked: (500, {}, b"")
    asked: list[_Asked] = field(default_factory=list)

    @property
    def line(self) -> DirectLine:
        return DirectLine("tickets", self.url)

    @property
    def place(self) -> Place:
        return Place(self.url.authority, self.url.path)


@pytest.fixture
def server() -> Iterator[_Server]:
    """Run a server whose script the test sets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            message = json.loads(body) if body else {}
            asked = _Asked(
                self.command, message.get("method", ""), message.get("id"), self.headers.get("Mcp-Session-Id")
            )
            made.asked.append(asked)
            status, headers, answer = made.script(asked)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            """Write nothing into the test's output."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    made = _Server(UpstreamUrl.parse("tickets", f"http://127.0.0.1:{listener.server_port}/mcp"))
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    yield made
    listener.shutdown()
    listener.server_close()


def _result(**result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def _error(message: str, **data: object) -> bytes:
    error = {"code": -32000, "message": message, "data": data}
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()


def _legacy(asked: _Asked) -> _Answer:
    """Answer as a server that has sessions, and streams its answers."""
    match asked.rpc:
        case "initialize":
            event = b"id: 1\ndata: \n\nevent: message\ndata: %b\n\n" % _result(protocolVersion="2025-06-18")
            return 200, {"Content-Type": "text/event-stream", **_SESSION}, event
        case "notifications/initialized":
            return 202, {}, b""
        case "ping" if asked.session == "s1":
            return 200, {"Content-Type": "application/json"}, _result()
        case "" if asked.method == "DELETE":
            return 200, {}, b""
        case _:
            return 400, {"Content-Type": "application/json"}, _error("Missing session ID")


async def test_modern_servers_are_asked_what_they_are(server: _Server) -> None:
    """One request, which is then the one to repeat; nothing is left behind."""
    server.script = lambda _asked: (200, {"Content-Type": "application/json"}, _result(serverInfo={}))
    course = await prepare_server(Way.DIRECT, server.line, server.place)
    assert [asked.rpc for asked in server.asked] == ["server/discover"]
    assert course.session_end is None
    assert b"Mcp-Method: server/discover\r\n" in course.request.data


async def test_legacy_servers_are_pinged_in_a_session(server: _Server) -> None:
    """It is opened once, used by all callers, each with ids of its own, and ended."""
    server.script = _legacy
    course = await prepare_server(Way.DIRECT, server.line, server.place)
    assert [asked.rpc for asked in server.asked] == [
        *("server/discover", "initialize", "notifications/initialized", "ping")
    ]
    findings = await _measure(course, server)
    samples = findings.ways[Way.DIRECT]
    assert len(samples.alone) == 10
    assert samples.rate is not None
    assert len(samples.connections) == 10
    assert (server.asked[-1].method, server.asked[-1].session) == ("DELETE", "s1")
    numbers = [asked.number for asked in server.asked if asked.rpc == "ping"]
    assert len(set(numbers)) == len(numbers)


async def test_servers_that_close_are_dialled_again(server: _Server) -> None:
    """One that ends the connection behind every answer can be measured too."""
    server.script = lambda _asked: (200, {"Connection": "close"}, _result(serverInfo={}))
    course = await prepare_server(Way.DIRECT, server.line, server.place)
    samples = (await _measure(course, server)).ways[Way.DIRECT]
    assert len(samples.alone) == 10
    assert len(samples.together) > 2


async def test_bulk_is_left_out_where_it_is_not_known(server: _Server) -> None:
    """A gateway of before answers as ever; the rest of the figures stands."""
    server.script = lambda _asked: (200, {}, _result(serverInfo={}))
    course = await prepare_server(Way.DIRECT, server.line, server.place)
    findings = await _measure(course, server)
    assert (findings.down.rate, findings.up.rate) == (None, None)
    assert findings.no_bulk


async def test_server_that_fails_later_ends_it(server: _Server) -> None:
    """The first wrong answer does, with what it said, and what was measured stays."""

    def tire(_asked: _Asked) -> _Answer:
        if len(server.asked) > 12:
            return 429, {"Content-Type": "application/json"}, _error("slow down")
        return 200, {}, _result(serverInfo={})

    server.script = tire
    course = await prepare_server(Way.DIRECT, server.line, server.place)
    findings = Findings(2)
    with pytest.raises(MeasurementFailed, match="answered 429, slow down"):
        await _measure(course, server, findings)
    assert 0 < len(findings.ways[Way.DIRECT].alone) < 10


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        ((401, {}, b""), "answered 401", "TUNNEL_ID"),
        ((403, {}, _error("no such path", where="gateway")), "answered 403, no such path", "--path"),
        ((404, {}, b"<html>"), "answered 404", "--path"),
        ((200, {}, b"<html>"), "answered 200, and no MCP message", "--path"),
        ((503, {}, _error("gateway gw1: \x1b[2Jgone")), r"answered 503, gateway gw1: \?\[2Jgone", ""),
    ],
)
async def test_server_that_cannot_be_measured(server: _Server, answer: _Answer, said: str, hint: str) -> None:
    """What it said, fit for a terminal, and what helps."""
    server.script = lambda _asked: answer
    with pytest.raises(MeasurementFailed, match=f"^server tickets at 127.0.0.1:[0-9]+ {said}$") as failed:
        await prepare_server(Way.DIRECT, server.line, server.place)
    assert hint in failed.value.hint
    assert bool(failed.value.hint) is bool(hint)


async def _measure(course: Course, server: _Server, findings: Findings | None = None) -> Findings:
    findings = findings or Findings(2)
    done: list[float] = []
    measuring = Measuring(
        [course], server.place, calls=10, findings=findings, progress=lambda _what, part: done.append(part)
    )
    await measuring.run()
    assert done == sorted(done)
    assert done[-1] == 1.0
    return findings
