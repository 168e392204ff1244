"""Raw paths: which have one reading only, and which are exposed."""

from urllib.parse import unquote

import pytest
from hypothesis import given, strategies as st

from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.raw_path import Exposure, is_at_or_below, split_target

# Every spelling of a way out of /mcp that some server or proxy is known to follow.
ESCAPES = [
    b"/mcp/..",
    b"/mcp/../admin",
    b"/mcp/./x",
    b"/mcp/.",
    b"/../mcp",
    b"/..",
    b"/.",
    b"/mcp/%2e%2e/admin",
    b"/mcp/%2E%2e/admin",
    b"/mcp/.%2e/admin",
    b"/mcp/%2e./admin",
    b"/mcp/%2e/admin",
    b"/mcp/%252e%252e/admin",
    b"/mcp/%25252e%25252e/admin",
    b"/mcp/%2525252e%2525252e/admin",
    b"/mcp/..;/admin",
    b"/mcp/..;x=1/admin",
    b"/mcp/..%3b/admin",
    b"/mcp/%2e%2e%3bx/admin",
    b"/mcp/;/../admin",
    b"/mcp/;x/admin",
    b"/mcp/..%3f/admin",
    b"/mcp/..%23/admin",
    b"/mcp/..#/admin",
    b"/mcp/..%20/admin",
    b"/mcp/..%09/admin",
    b"/mcp/%20",
    b"/mcp//admin",
    b"//mcp",
    b"//evil.example/mcp",
    b"/mcp//",
    b"/mcp\\..\\admin",
    b"/mcp/..\\admin",
    b"/mcp/%5c..%5cadmin",
    b"/mcp%2f..%2fadmin",
    b"/mcp/%2f",
    b"/mcp%2F",
    b"/mcp/%252f..%252fadmin",
    b"/mcp/a%2fb",
    b"/mcp/%00",
    b"/mcp/x%00/../admin",
    b"/mcp/%0d%0aHost:%20evil",
    b"/mcp/%7f",
    b"/mcp/%c0%ae%c0%ae/admin",
    b"/mcp/%c0%af..",
    b"/mcp/%e0%80%ae",
    b"/mcp/%ff",
    b"/mcp/%u002e%u002e/admin",
    b"/mcp/%",
    b"/mcp/%2",
    b"/mcp/%zz",
    b"/mcp/\x00",
    b"/mcp/\x01",
    b"/mcp/\xff",
]

NOT_PATHS = [b"", b"*", b"mcp", b"http://tickets.example/mcp", b"?x", b"tickets.example:443", b"\\mcp"]

CLEAN = [
    (b"/", b""),
    (b"/mcp", b""),
    (b"/mcp/", b""),
    (b"/mcp/a/b/c", b""),
    (b"/mcp/a.b", b""),
    (b"/mcp/a..b", b""),
    (b"/mcp/...", b""),
    (b"/mcp/.hidden", b""),
    (b"/mcp/a;b=c", b""),
    (b"/mcp/a%20b", b""),
    (b"/mcp/caf%C3%A9", b""),
    (b"/mcp/100%25", b""),
    (b"/mcp/~user/!$&'()*+,=:@-_", b""),
    (b"/mcp", b"?"),
    (b"/mcp", b"?a=../..&b=//x"),
    (b"/mcp", b"?a=%2e%2e%2f?c=%00"),
    (b"/.well-known/oauth-protected-resource/mcp", b""),
]


@pytest.mark.parametrize("target", ESCAPES + NOT_PATHS)
def test_a_path_with_a_second_reading_is_refused(target: bytes) -> None:
    """No server behind has to be trusted to read it our way."""
    with pytest.raises(RequestRefused) as refusal:
        split_target(target)

    assert (refusal.value.status, refusal.value.rule) == (403, "path")


@pytest.mark.parametrize(("path", "query"), CLEAN)
def test_a_clean_path_passes_byte_for_byte(path: bytes, query: bytes) -> None:
    """The query is the server's business, whatever it holds."""
    assert split_target(path + query) == (path, query)


@given(st.binary(max_size=60).map(lambda tail: b"/" + tail))
def test_any_target_is_a_value_or_a_refusal(target: bytes) -> None:
    """What passes joins to the same bytes, and decodes to no way up."""
    try:
        path, query = split_target(target)
    except RequestRefused:
        return

    assert path + query == target
    decoded = unquote(path.decode())
    assert not {".", ".."} & set(decoded.replace("\\", "/").split("/"))


@given(st.text("/.%2e5cf;\\amp", max_size=30).map(lambda tail: b"/mcp/" + tail.encode()))
def test_no_mixture_of_tricks_leaves_the_prefix(target: bytes) -> None:
    """Decoded as often as one likes, what passes stays below the prefix."""
    try:
        path, _ = split_target(target)
    except RequestRefused:
        return

    decoded = path.decode()
    for _ in range(4):
        decoded = unquote(decoded)
        segments = [segment.partition(";")[0] for segment in decoded.replace("\\", "/").split("/")]
        assert not {".", ".."} & set(segments)


def test_a_head_full_of_percent_signs_is_judged_at_once() -> None:
    """The layers that are decoded are counted, so the work is linear."""
    with pytest.raises(RequestRefused):
        split_target(b"/mcp/%" + b"25" * 30_000)


@pytest.mark.parametrize(
    ("path", "prefix", "below"),
    [
        (b"/mcp", b"/mcp", True),
        (b"/mcp/", b"/mcp", True),
        (b"/mcp/x", b"/mcp", True),
        (b"/mcpx", b"/mcp", False),
        (b"/mcp;x", b"/mcp", False),
        (b"/mc", b"/mcp", False),
        (b"/MCP", b"/mcp", False),
        (b"/x/mcp", b"/mcp", False),
        (b"/", b"", True),
        (b"/anything", b"", True),
    ],
)
def test_below_is_judged_by_whole_segments(path: bytes, prefix: bytes, below: bool) -> None:
    """A longer name that begins alike is another path."""
    assert is_at_or_below(path, prefix) is below


@pytest.mark.parametrize(
    ("path", "permitted"),
    [
        (b"/mcp", True),
        (b"/mcp/", True),
        (b"/mcp/sse", True),
        (b"/messages", True),
        (b"/messages/1", True),
        (b"/", False),
        (b"/admin", False),
        (b"/mcp2", False),
        (b"/.well-known/oauth-protected-resource", True),
        (b"/.well-known/oauth-protected-resource/mcp", True),
        (b"/.well-known/oauth-authorization-server", True),
        (b"/.well-known/openid-configuration", True),
        (b"/.well-known/openid-configuration/mcp", True),
        (b"/.well-known/openid-configurations", False),
        (b"/.well-known/", False),
        (b"/.well-known", False),
        (b"/.well-known/acme-challenge/token", False),
        (b"/.well-known/mcp/catalog.json", False),
        (b"/mcp/.well-known/openid-configuration", True),
        (b"/x/.well-known/oauth-protected-resource", False),
    ],
)
def test_the_endpoint_metadata_and_listed_paths_are_exposed(path: bytes, permitted: bool) -> None:
    """And nothing else."""
    assert Exposure.of([b"/mcp/", b"/messages/"]).permits(path) is permitted
