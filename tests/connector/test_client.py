"""The canary call that demo and doctor make."""

import asyncio
from datetime import UTC, datetime

import anyio
import pytest

from sallyport.connector.client import call_canary
from sallyport.connector.errors import CallerRefused, GatewayLost, NoGatewayConnected
from sallyport.tunnel.alerts import Alert
from tests.connector.far_side import FarSide, Request, reply
from tests.harness.identity import DOMAIN, TestIdentity

pytestmark = pytest.mark.anyio


async def test_a_canary_comes_back_with_the_gateways_clock(tunnel: TestIdentity, far: FarSide) -> None:
    """The gateway itself answers its reserved name; body, date and reference are handed out."""
    more = b"Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    far.script = lambda request, transport: reply(transport, b'{"gateway": "gw"}', more=more)
    canary = await call_canary(tunnel.bundle, relay=far.address)
    (request,) = far.requests
    assert request.head.target == b"/_canary"
    assert request.header(b"host") == [f"{tunnel.label}.{DOMAIN}".encode()]
    assert (canary.status, canary.body) == (200, b'{"gateway": "gw"}')
    assert canary.date == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert [canary.reference] == far.references
    assert 0 < canary.seconds < 60


@pytest.mark.parametrize("more", [b"", b"Date: yesterday\r\n"])
async def test_a_canary_without_a_usable_date_has_none(
    tunnel: TestIdentity, far: FarSide, more: bytes
) -> None:
    """A clock that says nothing is not an error."""
    far.script = lambda request, transport: reply(transport, b"", more=more)
    assert (await call_canary(tunnel.bundle, relay=far.address)).date is None


async def test_an_answer_of_any_form_is_read(tunnel: TestIdentity, far: FarSide) -> None:
    """An interim head, chunks, and an end by closing are all HTTP."""

    def answer(request: Request, transport: asyncio.Transport) -> None:
        transport.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 X\r\n\r\nuntil the end")
        transport.close()

    far.script = answer
    canary = await call_canary(tunnel.bundle, relay=far.address)
    assert (canary.status, canary.body) == (503, b"until the end")


async def test_a_relay_without_gateway_is_the_relays_error(tunnel: TestIdentity) -> None:
    """The errors of dialling pass through as they are."""
    async with FarSide.alerting(Alert.INTERNAL_ERROR) as far:
        with pytest.raises(NoGatewayConnected) as failed:
            await call_canary(tunnel.bundle, relay=far.address)
        assert [failed.value.reference] == far.references


async def test_a_refusal_after_the_handshake_is_the_gateways(
    tunnel: TestIdentity, other_tunnel: TestIdentity
) -> None:
    """An alert that comes instead of an answer is translated."""
    async with FarSide.of(tunnel, trusting=other_tunnel) as far:
        with anyio.fail_after(10), pytest.raises(CallerRefused):
            await call_canary(tunnel.bundle, relay=far.address)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour", "closed before the answer was complete"),
        (b"SSH-2.0-gateway\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000, "too large"),
    ],
)
async def test_what_is_no_answer_is_a_loss(
    tunnel: TestIdentity, far: FarSide, answer: bytes, words: str
) -> None:
    """Silence, a part, rubbish and a flood end the call with their names."""

    def say(request: Request, transport: asyncio.Transport) -> None:
        transport.write(answer)
        transport.close()

    far.script = say
    with anyio.fail_after(10), pytest.raises(GatewayLost, match=words):
        await call_canary(tunnel.bundle, relay=far.address)


async def test_a_gateway_that_does_not_answer_is_given_up(tunnel: TestIdentity, far: FarSide) -> None:
    """The limit covers all of the call, and the connection is closed at its end."""
    far.script = lambda request, transport: None
    with anyio.fail_after(10):
        with pytest.raises(GatewayLost, match=r"within 0\.2 seconds"):
            await call_canary(tunnel.bundle, relay=far.address, timeout=0.2)
        await far.lost.wait()
