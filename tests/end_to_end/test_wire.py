"""
What a transparent path to an MCP server keeps, each behaviour on three paths.

*direct* is the bar; *connector* is what an agent is given; *relay* is TLS straight to the public port, as a
client with a caller certificate speaks. A test that fails on *direct* is wrong itself.
"""

import json

import anyio
import pytest

from tests.harness.mcp_wire import (
    ACCEPT_BOTH,
    ACCEPT_EVENTS,
    JSON_BODY,
    LEGACY,
    META,
    MODERN,
    LegacySession,
    ModernClient,
    error_code,
    request,
    result_text,
    tool_call,
)
from tests.harness.raw_http import Endpoint, Header, Reply
from tests.harness.stage import Fixture, Stage

pytestmark = pytest.mark.anyio

_SOON = 15  # seconds: far more than anything here takes, and short enough to see that something hangs


@pytest.fixture(params=["direct", "connector", "relay"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """Give the MCP server's endpoint on each path; the direct one needs no product."""
    if request.param == "direct":
        fixture: Fixture = request.getfixturevalue("fixture")
        return fixture.endpoint()
    stage: Stage = request.getfixturevalue("stage")
    return stage.connector.endpoint() if request.param == "connector" else stage.tunnel.tls_endpoint()


@pytest.fixture(params=["close", "abort"])
def leaving(request: pytest.FixtureRequest) -> str:
    """Leave in order (over TLS with a close_notify) or by dropping the TCP connection."""
    return str(request.param)


async def _leave(reply: Reply, leaving: str) -> None:
    if leaving == "abort":
        reply.abort()
    else:
        await reply.close()


# -- legacy era: sessions -----------------------------------------------------------------------------


async def test_a_legacy_session_begins_with_an_id_and_a_priming_event(endpoint: Endpoint) -> None:
    """The session id is minted, and the first event carries an id and the retry interval, but no data."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
    first = session.opening[0].fields
    assert first["id"]
    assert first["data"] == ""
    assert first["retry"] == "100"


async def test_a_deleted_legacy_session_is_gone(endpoint: Endpoint) -> None:
    """DELETE ends the session, and its next use is the server's own 404."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        assert await session.delete() in (200, 204)
        async with await session.post(request("tools/list")) as reply:
            assert reply.status == 404


@pytest.mark.parametrize(("session_id", "status"), [(None, 400), ("0" * 32, 404)])
async def test_a_wrong_legacy_session_keeps_the_servers_status_and_body(
    endpoint: Endpoint, session_id: str | None, status: int
) -> None:
    """No session is 400 and an unknown one 404, both with the server's JSON-RPC error."""
    headers: list[Header] = [JSON_BODY, ACCEPT_BOTH]
    if session_id:
        headers += [("Mcp-Session-Id", session_id), ("MCP-Protocol-Version", LEGACY)]
    with anyio.fail_after(_SOON):
        body = json.dumps(request("tools/list")).encode()
        async with await endpoint.send("POST", headers, body) as reply:
            assert reply.status == status
            assert "error" in await reply.json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([JSON_BODY, ("Accept", "application/json")], 406),
        ([("Content-Type", "text/plain"), ACCEPT_BOTH], 400),
    ],
)
async def test_a_legacy_request_of_the_wrong_kind_is_refused_by_the_server(
    endpoint: Endpoint, headers: list[Header], status: int
) -> None:
    """An Accept without event streams is 406 and a foreign content type 400."""
    with anyio.fail_after(_SOON):
        body = json.dumps(request("initialize")).encode()
        async with await endpoint.send("POST", headers, body) as reply:
            assert reply.status == status


# -- legacy era: streams ------------------------------------------------------------------------------


async def test_the_standing_stream_opens_before_any_event_and_only_once(endpoint: Endpoint) -> None:
    """The head of the GET stream arrives while no event does; a second GET is the server's 409."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        async with await session.listen() as standing:
            assert standing.status == 200
            assert (standing.header("Content-Type") or "").startswith("text/event-stream")
            async with await session.listen() as second:
                assert second.status == 409


async def test_a_closed_standing_stream_can_be_opened_again(endpoint: Endpoint, leaving: str) -> None:
    """The server learns of the closing at once, so that a client that returns is not refused."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        await _leave(await session.listen(), leaving)
        while True:
            async with await session.listen() as again:
                if again.status == 200:
                    return
                assert again.status == 409
            await anyio.lowlevel.checkpoint()


async def test_legacy_progress_comes_as_it_is_made(endpoint: Endpoint) -> None:
    """Eight steps 60 ms apart arrive in order and apart, not as one bundle at the end."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        arguments = {"count": 8, "interval_ms": 60}
        async with await session.open_call("probe_stream", arguments, progressToken="tok") as reply:
            events = [event async for event in reply.events()]
    steps = [event for event in events if event.message.get("method") == "notifications/progress"]
    assert [event.message["params"]["progress"] for event in steps] == list(range(1, 9))  # type: ignore[index]
    assert steps[-1].at - steps[0].at > 0.25


async def test_the_server_asks_on_a_calls_stream_and_is_answered_in_another_request(
    endpoint: Endpoint,
) -> None:
    """An elicitation arrives while the call is open, and the answer's own POST is accepted."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint, {"elicitation": {}})
        async with await session.open_call("test_elicitation", {"message": "who?"}) as reply:
            async for event in reply.events():
                message = event.message
                if message.get("method") == "elicitation/create":
                    answer = {"action": "accept", "content": {"username": "u"}}
                    posted = {"jsonrpc": "2.0", "id": message["id"], "result": answer}
                    async with await session.post(posted) as accepted:
                        assert accepted.status == 202
                elif "result" in message:
                    assert "action=accept" in result_text(message)
                    return
    pytest.fail("the call ended without an answer")


async def test_a_stream_that_the_server_closed_is_resumed(endpoint: Endpoint) -> None:
    """Last-Event-ID brings the answer that the closed stream still owed."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        async with await session.open_call("test_reconnection", {}) as reply:
            events = [event async for event in reply.events()]
        assert not any("result" in event.message for event in events)
        last = [event.fields["id"] for event in events if event.fields.get("id")][-1]
        async with await session.listen(("Last-Event-ID", last)) as resumed:
            assert resumed.status == 200
            async for event in resumed.events():
                if "result" in event.message:
                    assert result_text(event.message) == "Reconnection test completed"
                    return
    pytest.fail("the answer was not replayed")


async def test_leaving_a_legacy_call_does_not_cancel_it(endpoint: Endpoint, leaving: str) -> None:
    """A legacy call runs on when its stream is closed: only ``notifications/cancelled`` stops it."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        server = ModernClient(endpoint)
        before = await server.stats()
        reply = await session.open_call("probe_sleep", {"seconds": 0.4})
        await server.wait_for("started", before["started"] + 2)
        await _leave(reply, leaving)
        # Three more finish: the two questions above, and the call.
        await server.wait_for("finished", before["finished"] + 3)
        assert (await server.stats())["cancelled"] == before["cancelled"]


async def test_a_cancelled_notification_stops_a_legacy_call(endpoint: Endpoint) -> None:
    """The notification reaches the server on another connection and ends the call."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        server = ModernClient(endpoint)
        before = await server.stats()
        call = request("tools/call", tool_call("probe_sleep", {"seconds": 50}))
        async with await session.post(call):
            params = {"requestId": call["id"]}
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            async with await session.post(note) as accepted:
                assert accepted.status == 202
            await server.wait_for("cancelled", before["cancelled"] + 1)


async def test_calls_of_one_legacy_session_run_side_by_side(endpoint: Endpoint) -> None:
    """Four calls are inside the server at once."""
    with anyio.fail_after(_SOON):
        session = await LegacySession.open(endpoint)
        server = ModernClient(endpoint)
        before = await server.stats()
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(_call_and_forget, session)
            # Four, and the question itself. Finished are then the two questions, and none of the four.
            await server.wait_for("started", before["started"] + 5)
            assert (await server.stats())["finished"] <= before["finished"] + 2


async def _call_and_forget(session: LegacySession) -> None:
    assert result_text(await session.call("probe_sleep", seconds=1)) == "slept"


@pytest.mark.parametrize("size", [1_000_000, 10_000_000])
async def test_a_large_legacy_result_comes_in_one_event(endpoint: Endpoint, size: int) -> None:
    """A result of 1 MB and of 10 MB arrives whole."""
    with anyio.fail_after(40):
        session = await LegacySession.open(endpoint)
        assert result_text(await session.call("probe_blob", size=size)) == "x" * size


# -- modern era: single requests ----------------------------------------------------------------------


async def test_discovery_needs_no_handshake(endpoint: Endpoint) -> None:
    """``server/discover`` names the modern version and mints no session."""
    with anyio.fail_after(_SOON):
        async with await ModernClient(endpoint).post("server/discover") as reply:
            answer = await reply.json()
    assert MODERN in answer["result"]["supportedVersions"]  # type: ignore[index]
    assert reply.header("Mcp-Session-Id") is None


async def test_an_unknown_method_keeps_its_status_and_body(endpoint: Endpoint) -> None:
    """404 with -32601 arrives as the server said it."""
    with anyio.fail_after(_SOON):
        async with await ModernClient(endpoint).post("no/such") as reply:
            assert (reply.status, error_code(await reply.json())) == (404, -32601)


async def test_a_routing_header_that_lies_is_refused_by_the_server(endpoint: Endpoint) -> None:
    """``Mcp-Name`` that differs from the body is the server's 400 with -32020."""
    call = tool_call("probe_echo", {"text": "x"})
    with anyio.fail_after(_SOON):
        async with await ModernClient(endpoint).post("tools/call", call, name="probe_stats") as reply:
            assert (reply.status, error_code(await reply.json())) == (400, -32020)


async def test_a_repeated_routing_header_arrives_repeated(endpoint: Endpoint) -> None:
    """``Mcp-Method`` sent twice is the server's 400 with -32020, and not merged on the way."""
    with anyio.fail_after(_SOON):
        twice = ("Mcp-Method", "server/discover")
        async with await ModernClient(endpoint).post("server/discover", None, twice) as reply:
            assert (reply.status, error_code(await reply.json())) == (400, -32020)


async def test_a_mirrored_argument_reaches_the_server(endpoint: Endpoint) -> None:
    """The server accepts the encoded ``Mcp-Param-Region`` and misses it when it is not there."""
    client = ModernClient(endpoint)
    call = tool_call("test_mirrored_argument", {"region": "Zürich"})
    with anyio.fail_after(_SOON):
        mirrored = ("Mcp-Param-Region", "=?base64?WsO8cmljaA==?=")
        async with await client.post("tools/call", call, mirrored) as reply:
            assert reply.status == 200
            assert "Z\\u00fcrich" in result_text(await reply.json())
        async with await client.post("tools/call", call) as reply:
            assert (reply.status, error_code(await reply.json())) == (400, -32020)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_modern_server_allows_only_post(endpoint: Endpoint, method: str) -> None:
    """405 keeps its Allow."""
    headers = [ACCEPT_EVENTS, ("MCP-Protocol-Version", MODERN)]
    with anyio.fail_after(_SOON):
        async with await endpoint.send(method, headers) as reply:
            assert (reply.status, reply.header("Allow")) == (405, "POST")


async def test_a_large_modern_result_comes_whole(endpoint: Endpoint) -> None:
    """A JSON body of 10 MB arrives whole."""
    with anyio.fail_after(40):
        answer = await ModernClient(endpoint).call("probe_blob", size=10_000_000)
    assert result_text(answer) == "x" * 10_000_000


async def test_a_large_request_arrives_whole(endpoint: Endpoint) -> None:
    """A request of 3.9 MB, just below the server's limit, is echoed whole."""
    text = "y" * 3_900_000
    with anyio.fail_after(40):
        assert result_text(await ModernClient(endpoint).call("probe_echo", text=text)) == text


async def test_an_early_refusal_overtakes_the_upload(endpoint: Endpoint) -> None:
    """The server's own 413 arrives although the body is still going up."""
    call = tool_call("probe_echo", {"text": "y" * 6_000_000})
    with anyio.fail_after(40):
        async with await ModernClient(endpoint).post("tools/call", call) as reply:
            assert reply.status == 413


async def test_headers_reach_the_server_unchanged(endpoint: Endpoint) -> None:
    """Credentials, repeated headers and those that nobody here knows arrive, in order."""
    sent: list[Header] = [
        ("Authorization", "Bearer upstream-token"),
        ("X-Custom", "one"),
        ("X-Custom", "two"),
        ("traceparent", "00-ab-cd-01"),
        ("Mcp-Future-Header", "kept"),
    ]
    with anyio.fail_after(_SOON):
        answer = await ModernClient(endpoint).call("probe_headers", *sent)
    received = [(name, value) for name, value in json.loads(result_text(answer))]
    wanted = [(name.lower(), value) for name, value in sent]
    assert [header for header in received if header in wanted] == wanted


async def test_well_known_paths_reach_the_server(endpoint: Endpoint) -> None:
    """OAuth metadata beside the endpoint is the server's business: here its 404."""
    path = "/.well-known/oauth-protected-resource" + endpoint.path
    with anyio.fail_after(_SOON):
        async with await endpoint.send("GET", [("Accept", "application/json")], path=path) as reply:
            assert reply.status == 404


# -- modern era: streams ------------------------------------------------------------------------------


async def test_leaving_cancels_a_waiting_modern_call(endpoint: Endpoint, leaving: str) -> None:
    """A modern call whose client leaves before any answer byte is cancelled at once."""
    client = ModernClient(endpoint)
    with anyio.fail_after(_SOON):
        before = await client.stats()
        reply = await client.post("tools/call", tool_call("probe_sleep", {"seconds": 50}), wait=False)
        await client.wait_for("started", before["started"] + 2)
        await _leave(reply, leaving)
        await client.wait_for("cancelled", before["cancelled"] + 1)


async def test_leaving_cancels_an_open_modern_stream(endpoint: Endpoint, leaving: str) -> None:
    """A modern call whose client leaves in the middle of the events is cancelled at once."""
    client = ModernClient(endpoint)
    call = tool_call("probe_stream", {"count": 2000, "interval_ms": 50}, progressToken=1)
    with anyio.fail_after(_SOON):
        before = await client.stats()
        reply = await client.post("tools/call", call)
        assert (reply.header("Content-Type") or "").startswith("text/event-stream")
        await anext(reply.events())
        await _leave(reply, leaving)
        await client.wait_for("cancelled", before["cancelled"] + 1)


async def test_modern_progress_comes_as_it_is_made(endpoint: Endpoint) -> None:
    """Steps arrive apart, and ``X-Accel-Buffering`` survives."""
    client = ModernClient(endpoint)
    call = tool_call("probe_stream", {"count": 8, "interval_ms": 60}, progressToken=1)
    with anyio.fail_after(_SOON):
        async with await client.post("tools/call", call) as reply:
            events = [event async for event in reply.events()]
    steps = [event.at for event in events if event.message.get("method") == "notifications/progress"]
    assert len(steps) == 8
    assert steps[-1] - steps[0] > 0.25
    assert reply.header("X-Accel-Buffering") == "no"


async def test_a_subscription_is_acknowledged_first_and_then_pushed_to(endpoint: Endpoint) -> None:
    """A change made on another connection arrives on the stream, with the subscription's id."""
    client = ModernClient(endpoint)
    wanted = {"notifications": {"toolsListChanged": True}}
    with anyio.fail_after(_SOON):
        async with await client.post("subscriptions/listen", wanted, number=77) as reply:
            assert reply.status == 200
            events = reply.events()
            acknowledged = (await anext(events)).message
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            await client.call("test_trigger_tool_change")
            pushed = (await anext(events)).message
    assert pushed["method"] == "notifications/tools/list_changed"
    assert pushed["params"]["_meta"][META + "subscriptionId"] == 77  # type: ignore[index]


async def test_idle_streams_do_not_hold_up_a_call(endpoint: Endpoint) -> None:
    """With 100 streams open and idle a call is answered."""
    client = ModernClient(endpoint)
    wanted = {"notifications": {"promptsListChanged": True}}
    streams: list[Reply] = []
    with anyio.fail_after(40):
        for _ in range(100):
            streams.append(await client.post("subscriptions/listen", wanted))
        assert {stream.status for stream in streams} == {200}
        with anyio.fail_after(5):
            assert result_text(await client.call("probe_echo", text="x")) == "x"
        for stream in streams:
            stream.abort()


@pytest.mark.slow
async def test_idle_streams_stay_open_and_their_comments_pass(stage: Stage) -> None:
    """The keep-alive comments that the server sends every 15 seconds arrive on every path."""
    paths = (stage.fixture.endpoint(), stage.connector.endpoint(), stage.tunnel.tls_endpoint())
    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for endpoint in paths:
                tasks.start_soon(_read_two_comments, endpoint)


async def _read_two_comments(endpoint: Endpoint) -> None:
    wanted = {"notifications": {"toolsListChanged": True}}
    async with await ModernClient(endpoint).post("subscriptions/listen", wanted) as reply:
        comments = 0
        async for event in reply.events():
            comments += "comment" in event.fields
            if comments == 2:
                return
    pytest.fail("the stream ended")
