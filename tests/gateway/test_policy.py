"""What a request's own headers decide, once it is known who makes it."""

import pytest

from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.policy import Headers, Policy


def test_without_passthrough_every_authorization_is_dropped() -> None:
    """The other headers keep their order."""
    policy = Policy.of([], passthrough=False)

    assert policy.admitted(
        [(b"A", b"1"), (b"authorization", b"Bearer x"), (b"Authorization", b"y"), (b"A", b"2")]
    ) == [
        (b"A", b"1"),
        (b"A", b"2"),
    ]


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
