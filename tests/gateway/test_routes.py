"""SNI × Host × path: which server a request is for, and which of its paths."""

from dataclasses import dataclass, field

import pytest

from sallyport.certs.errors import NameRefused
from sallyport.gateway.errors import RequestRefused, ServerUnusable
from sallyport.gateway.routes import CANARY, Route, Routes

LABEL = "abcdefghijklmnopqrstuvwxyz234567"
OTHER_LABEL = "zyxwvutsrqponmlkjihgfedcba765432"
D, E = "tunnel.example.com", "mcp.example.net"
T, U = f"{LABEL}.{D}", f"{LABEL}.{E}"


@dataclass
class Served:
    """What Routes reads of a server's config."""

    url: str
    paths: list[str] = field(default_factory=list)


@dataclass
class Request:
    """What Routes reads of a request."""

    host: bytes
    target: bytes


ROUTES = Routes.of(
    {
        "tickets": Served("http://127.0.0.1:9000/mcp"),
        "wiki": Served("https://wiki.internal/api/v1/mcp/", ["/health", "/files/"]),
        "all": Served("http://[::1]:9001"),
        "legacy": Served("http://10.0.0.1/sse", ["/messages"]),
    },
    label=LABEL,
    domains=[D, E],
)

# (SNI, Host, target) → (server, upstream's target)
ROUTED = [
    # The server's own name.
    (f"tickets.{T}", f"tickets.{T}", "/mcp", "tickets", "/mcp"),
    (f"tickets.{U}", f"tickets.{U}", "/mcp", "tickets", "/mcp"),
    (f"tickets.{T}", f"tickets.{T}:443", "/mcp/x?y=1", "tickets", "/mcp/x?y=1"),
    (f"tickets.{T}", f"tickets.{T}:65535", "/mcp", "tickets", "/mcp"),
    (f"tickets.{T}", f"tickets.{T}:", "/mcp", "tickets", "/mcp"),
    (f"tickets.{T}", f"TICKETS.{T.upper()}", "/mcp", "tickets", "/mcp"),
    (f"Tickets.{T}", f"tickets.{T}", "/mcp", "tickets", "/mcp"),
    (f"tickets.{T}", f"tickets.{T}", "/mcp?", "tickets", "/mcp?"),
    (f"tickets.{T}", f"tickets.{T}", "/mcp?a=/../%2e%2e", "tickets", "/mcp?a=/../%2e%2e"),
    (f"tickets.{T}", f"tickets.{T}", "/mcp/tickets", "tickets", "/mcp/tickets"),
    (f"wiki.{T}", f"wiki.{T}", "/api/v1/mcp", "wiki", "/api/v1/mcp"),
    (f"wiki.{T}", f"wiki.{T}", "/api/v1/mcp/", "wiki", "/api/v1/mcp/"),
    (f"wiki.{T}", f"wiki.{T}", "/health", "wiki", "/health"),
    (f"wiki.{T}", f"wiki.{T}", "/files/a/b", "wiki", "/files/a/b"),
    (f"all.{T}", f"all.{T}", "/", "all", "/"),
    (f"all.{T}", f"all.{T}", "/anything", "all", "/anything"),
    (f"legacy.{T}", f"legacy.{T}", "/messages/?session_id=1", "legacy", "/messages/?session_id=1"),
    # Metadata beside the endpoint.
    (
        f"tickets.{T}",
        f"tickets.{T}",
        "/.well-known/oauth-protected-resource/mcp",
        "tickets",
        "/.well-known/oauth-protected-resource/mcp",
    ),
    (
        f"tickets.{T}",
        f"tickets.{T}",
        "/.well-known/openid-configuration",
        "tickets",
        "/.well-known/openid-configuration",
    ),
    # Under the tunnel's own name the first segment names the server.
    (T, T, "/tickets/mcp", "tickets", "/mcp"),
    (U, f"{U}:8443", "/tickets/mcp?x", "tickets", "/mcp?x"),
    (T, T, "/wiki/api/v1/mcp/sse", "wiki", "/api/v1/mcp/sse"),
    (T, T, "/all", "all", "/"),
    (T, T, "/all/", "all", "/"),
    (T, T, "/all?x", "all", "/?x"),
    (T, T, "/all/all", "all", "/all"),
    (
        T,
        T,
        "/tickets/.well-known/oauth-protected-resource/mcp",
        "tickets",
        "/.well-known/oauth-protected-resource/mcp",
    ),
    # … and in a well-known path the one after the suffix.
    (
        T,
        T,
        "/.well-known/oauth-protected-resource/tickets/mcp",
        "tickets",
        "/.well-known/oauth-protected-resource/mcp",
    ),
    (T, T, "/.well-known/oauth-authorization-server/wiki", "wiki", "/.well-known/oauth-authorization-server"),
    (T, T, "/.well-known/openid-configuration/all", "all", "/.well-known/openid-configuration"),
    (T, T, "/.well-known/anything/all/x", "all", "/.well-known/anything/x"),
    # The gateway itself.
    (T, T, "/_canary", CANARY, "/"),
    (T, T, "/_canary/any/path", CANARY, "/any/path"),
    (f"_canary.{T}", f"_canary.{T}", "/", CANARY, "/"),
]

# (SNI, Host, target) → (status, rule)
REFUSED = [
    # Host is not the SNI.
    (f"tickets.{T}", f"wiki.{T}", "/mcp", 421, "host"),
    (f"tickets.{T}", T, "/tickets/mcp", 421, "host"),
    (T, f"tickets.{T}", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{U}", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}.", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}:port", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}:443:443", "/mcp", 421, "host"),
    (f"tickets.{T}", f"x@tickets.{T}", "/mcp", 421, "host"),
    (f"tickets.{T}", f" tickets.{T}", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}/", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}#", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}?", "/mcp", 421, "host"),
    (f"tickets.{T}", f"tickets.{T}\\", "/mcp", 421, "host"),
    (f"tickets.{T}", "ticKets." + T.replace("k", "\N{KELVIN SIGN}"), "/mcp", 421, "host"),
    (f"tickets.{T}", "", "/mcp", 421, "host"),
    *(
        (f"tickets.{T}", host, "/mcp", 421, "host")
        for host in (
            "127.0.0.1:9000",
            "127.0.0.1",
            "localhost",
            "localhost.",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]:9000",
            "[2002:7f00:1::]",
            "[fe80::1%25eth0]",
            "169.254.169.254",
            "metadata.google.internal",
            "wiki.internal",
            "evil.test",
            f"evil.test#tickets.{T}",
            f"tickets.{T}@evil.test",
            f"tickets.{T}.evil.test",
            f"tickets.{T},evil.test",
            f"tickets.{T} evil.test",
            "xn--tckets-q9a.example.com",
        )
    ),
    # No such server: never 404.
    (f"nobody.{T}", f"nobody.{T}", "/mcp", 421, "server"),
    (f"a.tickets.{T}", f"a.tickets.{T}", "/mcp", 421, "server"),
    (f"tickets.{OTHER_LABEL}.{D}", f"tickets.{OTHER_LABEL}.{D}", "/mcp", 421, "server"),
    (f"{OTHER_LABEL}.{D}", f"{OTHER_LABEL}.{D}", "/tickets/mcp", 421, "server"),
    (f"{LABEL}.link.{D}", f"{LABEL}.link.{D}", "/tickets/mcp", 421, "server"),
    (f"{LABEL}.evil.test", f"{LABEL}.evil.test", "/tickets/mcp", 421, "server"),
    (D, D, "/tickets/mcp", 421, "server"),
    ("", "", "/tickets/mcp", 421, "server"),
    (T, T, "/", 421, "server"),
    (T, T, "/?server=tickets", 421, "server"),
    (T, T, "/mcp", 421, "server"),
    (T, T, "/nobody/mcp", 421, "server"),
    (T, T, "/Tickets/mcp", 421, "server"),
    (T, T, "/%74ickets/mcp", 421, "server"),
    (T, T, "/tickets;x/mcp", 421, "server"),
    (T, T, "/tickets.x/mcp", 421, "server"),
    (T, T, "/ticket%C3%A9/mcp", 421, "server"),
    (T, T, "/link/mcp", 421, "server"),
    (T, T, "/_other", 421, "server"),
    (T, T, "/.well-known", 421, "server"),
    (T, T, "/.well-known/", 421, "server"),
    (T, T, "/.well-known/oauth-protected-resource", 421, "server"),
    (T, T, "/.well-known/oauth-protected-resource/", 421, "server"),
    (T, T, "/.well-known/oauth-protected-resource/nobody/mcp", 421, "server"),
    (f"tickets.{OTHER_LABEL}.{E}", f"tickets.{OTHER_LABEL}.{E}", "/../..", 403, "path"),
    # Not exposed.
    (f"tickets.{T}", f"tickets.{T}", "/", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/admin", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/mcp2", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/MCP", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/m%63p", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/mcp;jsessionid=1", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/health", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/tickets/mcp", 403, "exposed"),
    (f"tickets.{T}", f"tickets.{T}", "/.well-known/acme-challenge/x", 403, "exposed"),
    (f"wiki.{T}", f"wiki.{T}", "/api/v1", 403, "exposed"),
    (f"wiki.{T}", f"wiki.{T}", "/healthz", 403, "exposed"),
    (T, T, "/tickets", 403, "exposed"),
    (T, T, "/tickets/", 403, "exposed"),
    (T, T, "/tickets/admin", 403, "exposed"),
    (T, T, "/.well-known/acme-challenge/tickets", 403, "exposed"),
    # Ambiguous, so refused before anything is looked up.
    (f"tickets.{T}", f"tickets.{T}", "/mcp/../admin", 403, "path"),
    (f"tickets.{T}", f"tickets.{T}", "/mcp/%2e%2e/admin", 403, "path"),
    (f"tickets.{T}", f"tickets.{T}", "//evil.test/mcp", 403, "path"),
    (f"all.{T}", f"all.{T}", "/..", 403, "path"),
    (T, T, "/tickets/../wiki/health", 403, "path"),
    (T, T, "/tickets//mcp", 403, "path"),
    (T, T, "//tickets/mcp", 403, "path"),
    (T, T, "/tickets%2fmcp", 403, "path"),
    (T, T, "/tickets\\mcp", 403, "path"),
    (T, T, "/.well-known/../tickets/mcp", 403, "path"),
    (T, T, "/.well-known/oauth-x/%2e%2e/tickets", 403, "path"),
    (T, T, "/_canary/../tickets", 403, "path"),
    (T, T, f"http://{T}/tickets/mcp", 403, "path"),
    (T, T, "http://evil.test/tickets/mcp", 403, "path"),
    (T, T, "*", 403, "path"),
    (T, T, f"{T}:443", 403, "path"),
]


@pytest.mark.parametrize(("sni", "host", "target", "server", "upstream_target"), ROUTED)
def test_routed(sni: str, host: str, target: str, server: str, upstream_target: str) -> None:
    """The server gets its own path, byte for byte, and the query."""
    decision = ROUTES.decide(Request(host.encode(), target.encode()), sni)

    assert decision == Route(server, upstream_target.encode())


@pytest.mark.parametrize(("sni", "host", "target", "status", "rule"), REFUSED)
def test_refused(sni: str, host: str, target: str, status: int, rule: str) -> None:
    """The answer names the rule, and no refusal is a 404."""
    with pytest.raises(RequestRefused) as refusal:
        ROUTES.decide(Request(host.encode(), target.encode()), sni)

    assert (refusal.value.status, refusal.value.rule) == (status, rule)


@pytest.mark.parametrize("path", ["/mcp/..", "//mcp", "/a//b", "/%2e%2e", "/a%2fb", "/mcp/%zz", "/a\\b"])
def test_a_path_that_nobody_could_ask_for_is_refused_at_start(path: str) -> None:
    """In ``url`` and in ``paths`` alike, with the server's name."""
    for served in (Served("http://h" + path), Served("http://h/mcp", [path])):
        with pytest.raises(ServerUnusable) as refusal:
            Routes.of({"tickets": served}, label=LABEL, domains=[D])

        assert "'tickets'" in str(refusal.value)
        assert refusal.value.hint


def test_a_name_longer_than_dns_allows_is_refused_at_start() -> None:
    """The server's, the label's and the domain's parts together."""
    domain = ".".join(["d" * 60] * 3)

    with pytest.raises(NameRefused):
        Routes.of({"s" * 63: Served("http://h/mcp")}, label=LABEL, domains=[domain])
