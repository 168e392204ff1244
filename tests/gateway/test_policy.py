"""What a request's own headers decide."""

import pytest

from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.policy import Headers, Policy

KEYS = [
    (b"Authorization", b"Bearer sp_abc"),
    (b"authorization", b"bearer sp_abc"),
    (b"AUTHORIZATION", b"BEARER   sp_"),
    (b"Authorization", b"Bearer\tsp_abc"),
    (b"Authorization", b" Bearer sp_abc "),
    (b"Sallyport-Key", b"anything"),
    (b"sallyport-key", b""),
]

NOT_KEYS = [
    (b"Authorization", b"Bearer eyJhbGciOi"),
    (b"Authorization", b"Bearer SP_abc"),
    (b"Authorization", b"Bearer xsp_abc"),
    (b"Authorization", b"Basic c3BfOnNwXw=="),
    (b"Authorization", b"sp_abc"),
    (b"Authorization", b""),
    (b"X-Authorization", b"Bearer sp_abc"),
    (b"Mcp-Param-Key", b"sp_abc"),
]


@pytest.mark.parametrize("header", KEYS)
def test_a_key_is_answered_401(header: tuple[bytes, bytes]) -> None:
    """Keys are off, and one that is presented never goes further, wherever it stands."""
    with pytest.raises(RequestRefused) as refusal:
        Policy().admitted([(b"Accept", b"*/*"), (b"Authorization", b"Bearer other"), header])

    assert (refusal.value.status, refusal.value.rule) == (401, "key")


@pytest.mark.parametrize("header", NOT_KEYS)
def test_what_is_not_a_key_passes(header: tuple[bytes, bytes]) -> None:
    """Authorization belongs to the server behind, and so does what only looks like a key."""
    headers: Headers = [(b"Accept", b"*/*"), header, (b"Accept", b"x")]

    assert Policy().admitted(headers) == headers


def test_without_passthrough_every_authorization_is_dropped() -> None:
    """The other headers keep their order."""
    policy = Policy.of([], passthrough=False)

    assert policy.admitted(
        [(b"A", b"1"), (b"authorization", b"Bearer x"), (b"Authorization", b"y"), (b"A", b"2")]
    ) == [
        (b"A", b"1"),
        (b"A", b"2"),
    ]


def test_without_passthrough_a_key_is_still_answered_401() -> None:
    """A caller that presents a key learns that it is not accepted."""
    with pytest.raises(RequestRefused):
        Policy.of([], passthrough=False).admitted([(b"Authorization", b"Bearer sp_abc")])


@pytest.mark.parametrize(
    "origin", [b"https://app.example.com", b"HTTPS://App.Example.com", b" https://app.example.com"]
)
def test_a_listed_origin_passes(origin: bytes) -> None:
    """Scheme and host of an origin are compared without case."""
    headers: Headers = [(b"Origin", origin)]

    assert Policy.of(["https://App.example.com"], passthrough=True).admitted(headers) == headers


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://app.example.com:8443",
        b"http://app.example.com",
        b"https://app.example.com.evil.test",
        b"https://app.example.com/",
        b"https://evil.test",
    ],
)
def test_any_other_origin_is_refused(origin: bytes) -> None:
    """Also when a listed one stands beside it."""
    policy = Policy.of(["https://app.example.com"], passthrough=True)

    with pytest.raises(RequestRefused) as refusal:
        policy.admitted([(b"origin", b"https://app.example.com"), (b"oRIGIN", origin)])

    assert (refusal.value.status, refusal.value.rule) == (403, "origin")


def test_no_origin_is_listed_by_default() -> None:
    """A browser page reaches nothing unless somebody wrote it down."""
    with pytest.raises(RequestRefused):
        Policy().admitted([(b"Origin", b"https://app.example.com")])
