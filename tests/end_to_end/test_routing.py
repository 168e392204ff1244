"""
SNI × Host × path: which server a request reaches, and what is answered where it reaches none.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace

import anyio
import pytest

from tests.harness.product import LOOPBACK, Product, Tunnel
from tests.harness.raw_http import Endpoint
from tests.harness.rough_upstream import RoughUpstream

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Town:
    """A tunnel with two servers that answer with their names."""

    tunnel: Tunnel
    upstreams: tuple[RoughUpstream, RoughUpstream]

    def endpoint(self, sni: str, host: str) -> Endpoint:
        """Return an endpoint below the tunnel's name; ``{L}`` stands for that name."""
        name = sni.format(L=self.tunnel.host())
        authority = host.format(L=self.tunnel.host())
        context = self.tunnel.only_root_context()
        return Endpoint(LOOPBACK, self.tunnel.product.relay_port, "/mcp", authority, context, name)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Run the product with both servers."""
    folder = tmp_path_factory.mktemp("town")
    with RoughUpstream("tickets") as tickets, RoughUpstream("wiki") as wiki, Product(folder / "p") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": tickets.url, "wiki": wiki.url})
        tunnel.start_gateway()
        yield Town(tunnel, (tickets, wiki))


TICKETS, WIKI, BARE = "tickets.{L}", "wiki.{L}", "{L}"
WELL_KNOWN = "/.well-known/oauth-protected-resource"

SERVED = [
    (TICKETS, TICKETS, "/mcp", "tickets"),
    (TICKETS, TICKETS + ":443", "/mcp", "tickets"),
    (TICKETS, TICKETS + ":8443", "/mcp/below", "tickets"),
    ("TICKETS.{L}", TICKETS, "/mcp", "tickets"),
    (TICKETS, "TICKETS.{L}", "/mcp", "tickets"),
    (WIKI, WIKI, "/mcp?x=/tickets/", "wiki"),
    (BARE, BARE, "/tickets/mcp", "tickets"),
    (BARE, BARE, "/wiki/mcp/below?q=1", "wiki"),
    (TICKETS, TICKETS, WELL_KNOWN, "tickets"),
    (TICKETS, TICKETS, WELL_KNOWN + "/mcp", "tickets"),
    (BARE, BARE, WELL_KNOWN + "/wiki/mcp", "wiki"),
    (WIKI, WIKI, "/.well-known/openid-configuration", "wiki"),
]

REFUSED = [
    # A Host that is not the name whose certificate the caller checked.
    (TICKETS, WIKI, "/mcp", 421),
    (TICKETS, BARE, "/tickets/mcp", 421),
    (BARE, TICKETS, "/mcp", 421),
    (TICKETS, "other.example", "/mcp", 421),
    (TICKETS, "127.0.0.1", "/mcp", 421),
    (TICKETS, TICKETS + ".", "/mcp", 421),
    # A server that is not there: never 404, which clients read as the end of their session.
    ("nosuch.{L}", "nosuch.{L}", "/mcp", 421),
    (BARE, BARE, "/nosuch/mcp", 421),
    (BARE, BARE, "/", 421),
    (BARE, BARE, "/TICKETS/mcp", 421),
    (BARE, BARE, WELL_KNOWN + "/nosuch/mcp", 421),
    # A path that the server does not expose, and what some server would read as another path.
    (TICKETS, TICKETS, "/", 403),
    (TICKETS, TICKETS, "/admin", 403),
    (TICKETS, TICKETS, "/mcpx", 403),
    (TICKETS, TICKETS, "/tickets/mcp", 403),
    (TICKETS, TICKETS, "/.well-known/secrets", 403),
    (TICKETS, TICKETS, "/mcp/../admin", 403),
    (TICKETS, TICKETS, "/mcp/%2e%2e/admin", 403),
    (TICKETS, TICKETS, "/mcp/%252e%252e/admin", 403),
    (TICKETS, TICKETS, "/mcp%2fadmin", 403),
    (TICKETS, TICKETS, "/mcp//admin", 403),
    (TICKETS, TICKETS, "//mcp", 403),
    (TICKETS, TICKETS, "/mcp/..;/admin", 403),
    (TICKETS, TICKETS, "/mcp\\..\\admin", 400),
    (BARE, BARE, "/tickets/../wiki/mcp", 403),
    (BARE, BARE, "//tickets/mcp", 403),
]


@pytest.mark.parametrize(("sni", "host", "path", "server"), SERVED)
async def test_a_request_reaches_the_server_that_its_names_mean(
    town: Town, sni: str, host: str, path: str, server: str
) -> None:
    """SNI, Host and path agree on one server, and it answers."""
    with anyio.fail_after(10):
        async with await town.endpoint(sni, host).send("GET", path=path) as reply:
            assert (reply.status, await reply.body()) == (200, server.encode())


@pytest.mark.parametrize(("sni", "host", "path", "status"), REFUSED)
async def test_a_request_that_means_no_server_is_refused(
    town: Town, sni: str, host: str, path: str, status: int
) -> None:
    """The gateway answers with the status and a JSON-RPC error, and no server hears of it."""
    before = [list(upstream.requests) for upstream in town.upstreams]
    with anyio.fail_after(10):
        async with await town.endpoint(sni, host).send("GET", path=path) as reply:
            assert reply.status == status
            assert "error" in await reply.json()
    assert [upstream.requests for upstream in town.upstreams] == before


async def test_the_path_that_a_server_sees_has_no_server_name_in_it(town: Town) -> None:
    """Below the tunnel's own name the server's segment is removed, in well-known paths too, and no more."""
    tickets, _ = town.upstreams
    with anyio.fail_after(10):
        for path in ("/tickets/mcp/a%20b?q=%2F", WELL_KNOWN + "/tickets/mcp"):
            async with await town.endpoint(BARE, BARE).send("GET", path=path) as reply:
                assert reply.status == 200
    assert tickets.requests[-2:] == ["/mcp/a%20b?q=%2F", WELL_KNOWN + "/mcp"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_browsers_request_is_refused(town: Town, origin: str) -> None:
    """An Origin that the server's configuration does not allow is 403, whoever presents a certificate."""
    with anyio.fail_after(10):
        async with await town.endpoint(TICKETS, TICKETS).send("POST", [("Origin", origin)]) as reply:
            assert reply.status == 403


async def test_a_caller_without_a_certificate_gets_nowhere(town: Town) -> None:
    """Without a certificate the handshake fails, and no server hears of it."""
    before = [list(upstream.requests) for upstream in town.upstreams]
    anonymous = replace(town.endpoint(TICKETS, TICKETS), tls=town.tunnel.only_root_context(None))
    with anyio.fail_after(10), pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        async with await anonymous.send("GET") as reply:
            await reply.body()
    assert [upstream.requests for upstream in town.upstreams] == before
