"""The local endpoint: from a client's request on loopback to a gateway's answer, and what fails between."""

import asyncio
import errno
import json
import socket
from collections.abc import Generator, MutableMapping
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.certs.errors import Rule
from sallyport.config.fields import Address
from sallyport.connector import http_endpoint, listeners
from sallyport.connector.errors import PortUnavailable
from sallyport.connector.listeners import open_listeners
from sallyport.tunnel.alerts import Alert
from tests.connector.far_side import FarSide, Request, reply
from tests.connector.local_endpoint import serving
from tests.harness.identity import DOMAIN, TestIdentity
from tests.harness.raw_http import Endpoint, Reply

pytestmark = pytest.mark.anyio


class Log:
    """
    What was logged meanwhile.

    Args:
        captured: The events, as ``capture_logs`` adds to them.
    """

    def __init__(self, captured: list[MutableMapping[str, Any]]) -> None:
        self._captured = captured

    @property
    def lines(self) -> list[MutableMapping[str, Any]]:
        """The lines of the calls, in order."""
        return [event for event in self._captured if event["event"] == "call"]


@pytest.fixture
def log() -> Generator[Log, None, None]:
    """Keep what the endpoint logs."""
    with capture_logs() as captured:
        yield Log(captured)


async def error_of(answer: Reply) -> dict[str, object]:
    """Return the JSON-RPC error of an answer, whose form is checked."""
    assert answer.header("Content-Type") == "application/json"
    whole = await answer.json()
    assert (whole["jsonrpc"], whole["id"]) == ("2.0", None)
    error = cast(dict[str, object], whole["error"])
    assert error["code"] == -32000
    return error


# What reaches the gateway


async def test_a_request_reaches_the_gateway_in_its_own_words(tunnel: TestIdentity, far: FarSide) -> None:
    """Host and target are the tunnel's, hop-by-hop headers and Origin are gone, all else passes in order."""
    async with serving(tunnel, far.address) as local:
        headers = [
            ("X-One", "1"),
            ("x-one", "2"),
            ("Origin", "http://localhost:3000"),
            ("Authorization", "Bearer of-the-server"),
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "gone"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Proxy-Authorization", "gone"),
            ("Sallyport-Base", "http://forged.example /"),
            ("Sallyport-Key", "sp_forged"),
            ("MCP-Protocol-Version", "2026-07-28"),
        ]
        async with await local.send("POST", headers, b'{"id": 1}', path="/mcp?a=1") as answer:
            assert answer.status == 200
            asked = await answer.json()
    assert asked == {
        "method": "POST",
        "target": "/tickets/mcp?a=1",
        "headers": [
            ["Host", f"{tunnel.label}.{DOMAIN}"],
            ["X-One", "1"],
            ["x-one", "2"],
            ["Authorization", "Bearer of-the-server"],
            ["MCP-Protocol-Version", "2026-07-28"],
            ["Sallyport-Base", f"http://127.0.0.1:{local.port} /"],
            ["Content-Length", "9"],
        ],
        "body": '{"id": 1}',
    }


async def test_the_whole_tunnel_keeps_its_paths(tunnel: TestIdentity, far: FarSide) -> None:
    """Without a server at the root the client names it, and the base says so."""
    async with serving(tunnel, far.address, server=None) as local:
        async with await local.send("GET", path="/wiki/mcp") as answer:
            asked = await answer.json()
    assert asked["target"] == "/wiki/mcp"
    assert ["Sallyport-Base", f"http://127.0.0.1:{local.port} /wiki"] in cast(
        list[list[str]], asked["headers"]
    )


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_arrives_whole(tunnel: TestIdentity, far: FarSide, chunked: bool) -> None:
    """A megabyte goes up as it was framed."""
    body = b"0123456789abcdef" * 65536
    async with serving(tunnel, far.address) as local:
        async with await local.send("POST", body=body, chunked=chunked) as answer:
            assert answer.status == 200
            await answer.body()
    assert far.requests[0].body == body


async def test_calls_share_one_connection(tunnel: TestIdentity, far: FarSide, log: Log) -> None:
    """The connection to the gateway is kept, and its calls are numbered under its reference."""
    async with serving(tunnel, far.address) as local:
        for _ in range(3):
            async with await local.send("GET") as answer:
                await answer.body()
    assert len(far.references) == 1
    assert far.alpn == ["sallyport/1"]
    assert [line["call"] for line in log.lines] == [f"{far.references[0]}.{n}" for n in (1, 2, 3)]


async def test_an_answer_streams(tunnel: TestIdentity, far: FarSide) -> None:
    """The head comes before the body, and each event before the next one is written."""
    transports: list[asyncio.Transport] = []

    def begin(request: Request, transport: asyncio.Transport) -> None:
        transports.append(transport)
        transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    far.script = begin
    async with serving(tunnel, far.address) as local, await local.send("POST") as answer:
        assert answer.header("Content-Type") == "text/event-stream"
        events = answer.events()
        for number in (b"1", b"2"):
            transports[0].write(b"9\r\ndata: " + number + b"\n\n\r\n")
            assert (await anext(events)).fields == {"data": number.decode()}
        transports[0].write(b"0\r\n\r\n")
        assert [event async for event in events] == []
        assert answer.is_whole


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_is_gone_at_the_gateway(
    tunnel: TestIdentity, far: FarSide, abruptly: bool, log: Log
) -> None:
    """A disconnect is a message in MCP: the gateway hears it at once, and the log says who left."""
    far.script = lambda request, transport: None
    async with serving(tunnel, far.address) as local:
        waiting = await local.start("POST")
        await far.asked.wait()
        if abruptly:
            waiting.abort()
        else:
            await waiting.close()
        with anyio.fail_after(10):
            await far.lost.wait()
    assert [line["outcome"] for line in log.lines] == ["caller-left"]


async def test_other_statuses_of_the_gateway_pass(tunnel: TestIdentity, far: FarSide) -> None:
    """What the gateway or the server answers is theirs, 404 and 421 included."""
    far.script = lambda request, transport: reply(transport, b"{}", status=421, more=b"X-Rule: server\r\n")
    async with serving(tunnel, far.address) as local, await local.send("GET") as answer:
        assert answer.status == 421
        assert answer.header("X-Rule") == "server"


# Who may ask


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/mcp", "/", "/.well-known/oauth-protected-resource"])
async def test_a_foreign_host_is_refused_on_every_route(tunnel: TestIdentity, method: str, path: str) -> None:
    """DNS rebinding ends here: 421, and nobody is dialled."""
    async with FarSide.silent() as far, serving(tunnel, far.address) as local:
        rebound = replace(local, authority=f"attacker.example:{local.port}")
        async with await rebound.send(method, path=path) as answer:
            assert answer.status == 421
            assert (await error_of(answer))["data"] == {"rule": "host", "executed": "no"}
        assert not far.connected.is_set()


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_foreign_origin_is_refused(tunnel: TestIdentity, method: str, log: Log) -> None:
    """A web page of anywhere else is answered 403, and nobody is dialled."""
    async with FarSide.silent() as far, serving(tunnel, far.address) as local:
        async with await local.send(method, [("Origin", "https://attacker.example")]) as answer:
            assert answer.status == 403
            assert (await error_of(answer))["data"] == {"rule": "origin", "executed": "no"}
        assert not far.connected.is_set()
    assert [(line["outcome"], line["call"]) for line in log.lines] == [("refused", "")]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_blind_request_of_a_web_page_is_refused(tunnel: TestIdentity, method: str) -> None:
    """An image or a link carries no Origin, and is not carried with the user's certificate."""
    async with FarSide.silent() as far, serving(tunnel, far.address) as local:
        fields = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]
        async with await local.send(method, fields) as answer:
            assert answer.status == 403
            if method == "GET":
                rule = {"rule": "sec-fetch-site", "executed": "no"}
                assert (await error_of(answer))["data"] == rule
        assert not far.connected.is_set()


async def test_ipv6_loopback_is_served_too(tunnel: TestIdentity, far: FarSide) -> None:
    """``localhost`` may mean ::1, and the same endpoint is there."""
    async with serving(tunnel, far.address) as local:
        other = Endpoint("::1", local.port, "/mcp", f"[::1]:{local.port}")
        async with await other.send("GET") as answer:
            assert answer.status == 200


# What fails


@pytest.mark.parametrize(
    ("alert", "message"),
    [
        (Alert.UNRECOGNIZED_NAME, "the relay does not know tunnel tnl_"),
        (Alert.INTERNAL_ERROR, "the relay says: no gateway is connected for tunnel tnl_"),
        (Alert.HANDSHAKE_FAILURE, "the relay is at a limit"),
    ],
)
async def test_what_the_relay_says_is_told_in_words(
    tunnel: TestIdentity, alert: Alert, message: str, log: Log
) -> None:
    """An alert becomes 503 with its words, and the id under which the relay logged it."""
    async with FarSide.alerting(alert) as far, serving(tunnel, far.address) as local:
        async with await local.send("POST", body=b"{}") as answer:
            assert answer.status == 503
            error = await error_of(answer)
        call = f"{far.references[0]}.1"
    assert str(error["message"]).startswith(message)
    assert error["data"] == {"executed": "no", "hop": "relay", "call": call}
    (line,) = log.lines
    assert (line["log_level"], line["call"], line["status"]) == ("warning", call, 503)
    assert (line["outcome"], line["hop"], line["executed"]) == ("failed", "relay", "no")


async def test_an_unreachable_relay_is_told_at_once(tunnel: TestIdentity) -> None:
    """No TCP, no id: but the hop, and that nothing ran."""
    async with FarSide.silent() as far:
        closed = far.address
    async with serving(tunnel, closed) as local, await local.send("POST", body=b"{}") as answer:
        assert answer.status == 503
        error = await error_of(answer)
    assert str(closed) in str(error["message"])
    assert error["data"] == {"executed": "no", "hop": "relay", "call": ""}


async def test_an_attacker_gets_no_request(
    tunnel: TestIdentity, other_tunnel: TestIdentity, log: Log
) -> None:
    """What answers in the gateway's place is refused before a byte of the request, and logged as an error."""
    async with FarSide.of(other_tunnel, trusting=tunnel) as far, serving(tunnel, far.address) as local:
        async with await local.send("POST", body=b"secret") as answer:
            assert answer.status == 503
            error = await error_of(answer)
        assert far.requests == []
    assert f"not a gateway of tunnel {tunnel.bundle.tunnel}: rule {Rule.CHAIN}" in str(error["message"])
    assert cast(dict[str, object], error["data"])["executed"] == "no"
    assert log.lines[0]["log_level"] == "error"


async def test_a_refused_caller_executed_nothing(tunnel: TestIdentity, other_tunnel: TestIdentity) -> None:
    """The request may have left before the gateway's alert came; the gateway never looked at it."""
    async with FarSide.of(tunnel, trusting=other_tunnel) as far, serving(tunnel, far.address) as local:
        async with await local.send("POST", body=b"{}") as answer:
            assert answer.status == 503
            error = await error_of(answer)
        call = f"{far.references[0]}.1"
    assert "refuses caller alice" in str(error["message"])
    assert error["data"] == {"executed": "no", "hop": "gateway", "call": call}


@pytest.mark.parametrize("orderly", [False, True])
async def test_a_call_that_loses_its_gateway_may_have_run(
    tunnel: TestIdentity, far: FarSide, orderly: bool
) -> None:
    """Without a whole answer the truth is "unknown", and nothing is sent twice."""

    def hang_up(request: Request, transport: asyncio.Transport) -> None:
        if orderly:
            transport.close()
        else:
            transport.abort()

    far.script = hang_up
    async with serving(tunnel, far.address) as local, await local.send("POST", body=b"{}") as answer:
        assert answer.status == 503
        error = await error_of(answer)
    assert "was lost" in str(error["message"])
    assert error["data"] == {"executed": "unknown", "hop": "gateway", "call": f"{far.references[0]}.1"}
    assert len(far.requests) == 1
    assert len(far.hellos) == 1


async def test_the_second_call_of_a_connection_has_its_own_id(tunnel: TestIdentity, far: FarSide) -> None:
    """The number in a failure's id is that of the request on the gateway's connection."""
    async with serving(tunnel, far.address) as local:
        async with await local.send("GET") as answer:
            await answer.body()
        far.script = lambda request, transport: transport.abort()
        async with await local.send("GET") as answer:
            error = await error_of(answer)
    assert cast(dict[str, object], error["data"])["call"] == f"{far.references[0]}.2"


async def test_an_answer_that_breaks_off_is_never_whole(tunnel: TestIdentity, far: FarSide, log: Log) -> None:
    """Once an answer has begun there is no other: its end is missing, and the client sees it."""

    def half(request: Request, transport: asyncio.Transport) -> None:
        transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n")
        transport.abort()

    far.script = half
    async with serving(tunnel, far.address) as local, await local.send("GET") as answer:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await answer.body()
        assert not answer.is_whole
    (line,) = log.lines
    assert (line["outcome"], line["executed"], line["status"]) == ("failed", "unknown", 200)


async def test_a_gateway_that_comes_back_is_found(tunnel: TestIdentity) -> None:
    """A 503 is no state: the next call dials anew."""
    async with FarSide.alerting(Alert.INTERNAL_ERROR) as away, serving(tunnel, away.address) as local:
        async with await local.send("GET") as answer:
            assert answer.status == 503
        back = FarSide.of(tunnel)
        away.protocol = lambda far: back.protocol(back)
        async with await local.send("GET") as answer:
            assert answer.status == 200


async def test_a_mistake_of_ours_tells_the_log_and_not_the_client(
    tunnel: TestIdentity, far: FarSide, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we did not foresee is a 503 without its text; the log has the exception."""

    async def broken(self: object, protocol: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr("sallyport.connector.dial.Dialler.dial", broken)
    async with serving(tunnel, far.address) as local, await local.send("GET") as answer:
        assert answer.status == 503
        assert "secret" not in json.dumps(await error_of(answer))
    assert isinstance(log.lines[0]["exc_info"], RuntimeError)


# Beginning and end


async def test_a_taken_port_is_an_error_with_a_way_out(tunnel: TestIdentity) -> None:
    """Another program's port is not replaced by a free one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable) as refused:
            open_listeners(port)
    assert f"127.0.0.1:{port}" in str(refused.value)
    assert f"--port {port + 1}" in refused.value.hint


async def test_a_port_taken_on_ipv6_is_taken(tunnel: TestIdentity) -> None:
    """``localhost`` must not lead to somebody else's program."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable, match=rf"\[::1\]:{port}"):
            open_listeners(port)
    for listener in open_listeners(port):
        listener.close()


async def test_an_end_cuts_calls_and_frees_the_port(tunnel: TestIdentity, far: FarSide) -> None:
    """When the endpoint stops, running calls end at both sides and the port can be opened again."""
    far.script = lambda request, transport: None
    async with serving(tunnel, far.address) as local:
        waiting = await local.start("POST")
        await far.asked.wait()
    with anyio.fail_after(10):
        await far.lost.wait()
        assert await waiting.reader.read() == b""
    await waiting.close()
    async with serving(tunnel, far.address, port=local.port) as again:
        assert again.port == local.port


async def test_idle_connections_to_the_gateway_end_in_order(
    tunnel: TestIdentity, far: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that nobody uses is closed by us, and before the gateway would."""
    monkeypatch.setattr(http_endpoint, "GATEWAY_IDLE_TIMEOUT", 0.01)
    async with serving(tunnel, far.address) as local:
        async with await local.send("GET") as answer:
            await answer.body()
        with anyio.fail_after(10):
            await far.lost.wait()


@pytest.mark.parametrize("why", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_a_machine_without_ipv6_is_served_on_ipv4(why: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ::1 does not exist there is nobody else on it either."""
    listen = listeners._listen

    def without_ipv6(family: socket.AddressFamily, address: Address) -> socket.socket:
        if family == socket.AF_INET6:
            raise PortUnavailable(str(address), "", hint="") from OSError(why, "no IPv6 here")
        return listen(family, address)

    monkeypatch.setattr(listeners, "_listen", without_ipv6)
    (only,) = open_listeners(0)
    with only:
        assert only.family == socket.AF_INET
