"""Who may use the local endpoint, and how a request reads on its way to the gateway."""

import pytest
from hypothesis import given, strategies as st

from sallyport.connector.errors import LocalRequestRefused
from sallyport.connector.local_request import LocalSide, without

TUNNEL = LocalSide(7420)
TICKETS = LocalSide(7420, "tickets")

LOCAL_HOSTS = [b"127.0.0.1:7420", b"localhost:7420", b"LocalHost:7420", b"[::1]:7420"]
FOREIGN_HOSTS = [
    b"",
    b"127.0.0.1",
    b"localhost",
    b"127.0.0.1:7421",
    b"127.0.0.1:07420",
    b"127.0.0.1:7420:7420",
    b"127.0.0.2:7420",
    b"127.1:7420",
    b"0.0.0.0:7420",
    b"2130706433:7420",
    b"::1:7420",
    b"[::]:7420",
    b"[::ffff:127.0.0.1]:7420",
    b"localhost.:7420",
    b"localhost.attacker.example:7420",
    b"attacker.example:7420",
    b"attacker.example",
    b"user@localhost:7420",
    b"localhost:7420, attacker.example",
]
LOCAL_ORIGINS = [
    b"http://localhost",
    b"http://localhost:6274",
    b"http://127.0.0.1:7420",
    b"http://[::1]:3000",
    b"HTTP://LOCALHOST:3000",
]
FOREIGN_ORIGINS = [
    b"",
    b"null",
    b"https://localhost:3000",
    b"http://localhost.attacker.example",
    b"http://attacker.example",
    b"http://attacker.example:7420",
    b"http://localhost:3000/",
    b"http://localhost:",
    b"http://localhost:123456",
    b"http://user@localhost",
    b"http://127.0.0.1.attacker.example",
    b"http://localhost http://attacker.example",
    b"file://localhost",
    b"chrome-extension://localhost",
]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_a_request_for_the_endpoint_itself_passes(host: bytes) -> None:
    """Each name of this machine's loopback is admitted with the right port, in any case."""
    assert TUNNEL.check([(b"hOsT", host)]) == host.lower()


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_misdirected(host: bytes) -> None:
    """A name that a page may have rebound to loopback is answered 421."""
    with pytest.raises(LocalRequestRefused) as refused:
        TUNNEL.check([(b"Host", host)])
    assert (refused.value.status, refused.value.rule) == (421, "host")


@pytest.mark.parametrize("headers", [[], [(b"Host", LOCAL_HOSTS[0]), (b"host", LOCAL_HOSTS[0])]])
def test_exactly_one_host_is_wanted(headers: list[tuple[bytes, bytes]]) -> None:
    """No Host and two of them are both answered 421."""
    with pytest.raises(LocalRequestRefused, match="answers to"):
        TUNNEL.check(headers)


def test_on_port_80_a_host_without_port_is_its_own() -> None:
    """The default port of http may be left out, there and only there."""
    assert LocalSide(80).check([(b"Host", b"localhost")]) == b"localhost"
    assert LocalSide(80).check([(b"Host", b"[::1]:80")]) == b"[::1]:80"


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
def test_a_local_origin_passes(origin: bytes) -> None:
    """A page that this machine serves, on any port, may use the endpoint."""
    TUNNEL.check([(b"Host", b"localhost:7420"), (b"Origin", origin)])


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_origin_is_forbidden(origin: bytes) -> None:
    """A page of anywhere else is answered 403."""
    with pytest.raises(LocalRequestRefused) as refused:
        TUNNEL.check([(b"Host", b"localhost:7420"), (b"oRIGIN", origin)])
    assert (refused.value.status, refused.value.rule) == (403, "origin")


def test_two_origins_are_forbidden_even_if_both_are_local() -> None:
    """Which of two Origins a server behind would believe is not worth guessing."""
    headers = [(b"Host", b"localhost:7420"), (b"Origin", LOCAL_ORIGINS[0]), (b"Origin", LOCAL_ORIGINS[0])]
    with pytest.raises(LocalRequestRefused, match="origins"):
        TUNNEL.check(headers)


@pytest.mark.parametrize("sites", [[], [b"none"], [b"same-origin"]])
def test_what_no_other_page_caused_passes(sites: list[bytes]) -> None:
    """Programs send no Sec-Fetch-Site; a browser says ``none`` of what its user typed."""
    TUNNEL.check([(b"Host", b"localhost:7420"), *((b"Sec-Fetch-Site", site) for site in sites)])


@pytest.mark.parametrize(
    "sites",
    [[b"cross-site"], [b"same-site"], [b""], [b"None"], [b"new-in-2030"], [b"none", b"cross-site"]],
)
def test_what_another_page_caused_is_forbidden(sites: list[bytes]) -> None:
    """An image, a form or a link on a page of anywhere else carries no Origin, and is answered 403."""
    with pytest.raises(LocalRequestRefused) as refused:
        TUNNEL.check([(b"Host", b"localhost:7420"), *((b"sEC-fETCH-sITE", site) for site in sites)])
    assert (refused.value.status, refused.value.rule) == (403, "sec-fetch-site")


@pytest.mark.parametrize("site", [b"same-site", b"cross-site"])
def test_a_local_origin_vouches_for_its_page(site: bytes) -> None:
    """To a browser another port is another origin, and ``localhost`` another site than 127.0.0.1."""
    headers = [(b"Host", b"127.0.0.1:7420"), (b"Origin", b"http://localhost:6274"), (b"Sec-Fetch-Site", site)]
    assert TUNNEL.check(headers) == b"127.0.0.1:7420"


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (b"/mcp", b"/tickets/mcp"),
        (b"/", b"/tickets/"),
        (b"/mcp?a=1&b=/x", b"/tickets/mcp?a=1&b=/x"),
        (b"/mcp?", b"/tickets/mcp?"),
        (b"/?/.well-known/x", b"/tickets/?/.well-known/x"),
        (b"/a//b/../c%2f", b"/tickets/a//b/../c%2f"),
        (b"/.well-known/oauth-protected-resource/mcp", b"/.well-known/oauth-protected-resource/tickets/mcp"),
        (b"/.well-known/oauth-protected-resource", b"/.well-known/oauth-protected-resource/tickets"),
        (b"/.well-known/oauth-protected-resource/", b"/.well-known/oauth-protected-resource/tickets/"),
        (b"/.well-known/openid-configuration?x=/y", b"/.well-known/openid-configuration/tickets?x=/y"),
        (b"/.well-known/a/b/c", b"/.well-known/a/tickets/b/c"),
        (b"/.well-known/", b"/tickets/.well-known/"),
        (b"/.well-known", b"/tickets/.well-known"),
        (b"/.well-known//x", b"/tickets/.well-known//x"),
        (b"/.well-knownX/a", b"/tickets/.well-knownX/a"),
        (b"/mcp/.well-known/a/b", b"/tickets/mcp/.well-known/a/b"),
        (b"/.WELL-KNOWN/a/b", b"/tickets/.WELL-KNOWN/a/b"),
    ],
)
def test_the_server_is_named_where_the_gateway_looks_for_it(target: bytes, wanted: bytes) -> None:
    """The server's name becomes the first segment, or the one after /.well-known/X."""
    assert TICKETS.gateway_target(target) == wanted


@given(st.binary().map(lambda tail: b"/" + tail))
def test_what_the_gateway_removes_is_what_was_added(target: bytes) -> None:
    """Taking the name out again, as identity §3 says the gateway does, gives the client's own target back."""
    path, mark, query = TICKETS.gateway_target(target).partition(b"?")
    segments = path.split(b"/")
    position = 3 if segments[1] == b".well-known" else 1
    assert segments.pop(position) == b"tickets"
    assert b"/".join(segments) + mark + query == target


@given(st.binary())
def test_the_whole_tunnel_is_served_as_it_is(target: bytes) -> None:
    """Without a server at the root no target is touched."""
    assert TUNNEL.gateway_target(target) is target


@pytest.mark.parametrize(
    ("target", "base"),
    [
        (b"/wiki/mcp?x", b"http://localhost:7420 /wiki"),
        (b"/wiki", b"http://localhost:7420 /wiki"),
        (b"/.well-known/oauth-protected-resource/wiki/mcp", b"http://localhost:7420 /wiki"),
        (b"/.well-known/oauth-protected-resource", b"http://localhost:7420 /"),
        (b"/_canary", b"http://localhost:7420 /_canary"),
        (b"/", b"http://localhost:7420 /"),
        (b"/wi%20ki/mcp", b"http://localhost:7420 /"),
        (b"/" + b"x" * 64, b"http://localhost:7420 /"),
    ],
)
def test_the_base_of_a_whole_tunnel_names_the_server(target: bytes, base: bytes) -> None:
    """Under the tunnel each server's root is its name; what is no name leaves the prefix empty."""
    assert TUNNEL.public_base(b"localhost:7420", target) == base


@given(st.binary())
def test_the_base_of_one_server_is_the_root(target: bytes) -> None:
    """A server that stands at the root has the origin and nothing more."""
    assert TICKETS.public_base(b"[::1]:7420", target) == b"http://[::1]:7420 /"


@given(st.binary())
def test_the_base_is_always_one_header_value(target: bytes) -> None:
    """Whatever a target holds, nothing of it can break out of the header."""
    base = TUNNEL.public_base(b"localhost:7420", target)
    assert base.count(b" ") == 1
    assert base.isascii()
    assert not set(base) & set(b"\r\n\0")


def test_headers_are_dropped_by_name_in_any_case() -> None:
    """Every one of the named headers goes, the others keep their order and spelling."""
    headers = [(b"Accept", b"a"), (b"ORIGIN", b"o"), (b"X", b"1"), (b"origin", b"p"), (b"X", b"2")]
    assert without(headers, b"origin") == [(b"Accept", b"a"), (b"X", b"1"), (b"X", b"2")]
