"""Each kind of value accepts what it means and refuses everything else, in words."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from sallyport.config import fields
from sallyport.config.document import DocumentRefused, read_document
from sallyport.config.fields import Address, FieldRefused

_WRITTEN = {"folder": Path("/etc/sallyport")}


def _read(field: object, value: object) -> object:
    return TypeAdapter(field).validate_python(value, context=_WRITTEN)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("relay.example.com:443", ("relay.example.com", 443)),
        ("RELAY.example.com:1", ("relay.example.com", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::]:443", ("::", 443)),
        ("[2001:DB8::1]:443", ("2001:db8::1", 443)),
        ("localhost:7421", ("localhost", 7421)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6; what is printed reads back as the same."""
    parsed = Address.parse(text)
    assert parsed == address
    assert Address.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:٤",
        "host:4 3",
        "::1:443",
        "[::1]",
        "[::1",
        "[::1]x:443",
        "[host]:443",
        "ho st:443",
        "-host:443",
        "host..x:443",
        "1.2.3:443",
        "1.2.3.999:443",
        "user@host:443",
        "http://host:443",
        "a" * 254 + ":1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    """Ports outside 1–65535, bare IPv6, URLs, and names that no resolver takes."""
    with pytest.raises(FieldRefused):
        Address.parse(text)


def test_default_port_is_for_those_who_name_none() -> None:
    """A relay is on 443 unless it is said otherwise."""
    assert Address.parse("[::1]", default_port=443) == ("::1", 443)
    assert Address.parse("r.example.com", default_port=443) == ("r.example.com", 443)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("10m", 600), ("1h", 3600), ("250ms", 0.25), ("1.5s", 1.5), ("24h", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    """A number and a unit."""
    assert _read(fields.DurationField, text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [5, 5.0, True, "5", "s", "5 s", "-5s", "0s", "25h", "5d", "1e3s", None, [], "٥s"]
)
def test_what_is_no_duration(value: object) -> None:
    """No number without its unit, nothing negative, nothing longer than a day."""
    with pytest.raises(ValidationError):
        _read(fields.DurationField, value)


def test_code_may_give_seconds_as_a_number() -> None:
    """Only a file is held to the written form."""
    assert TypeAdapter(fields.DurationField).validate_python(0.2) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/mcp",
        "https://wiki.internal/mcp",
        "http://[::1]:9000/",
        "HTTP://host",
        "http://host/a%20b",
    ],
)
def test_server_urls(url: str) -> None:
    """http and https, with any path; the text is kept as written."""
    assert _read(fields.ServerUrlField, url) == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("stdio:server", "stdio scheme: wanted http or https"),
        ("unix:///run/x.sock", "unix scheme: wanted http or https"),
        ("wss://h/", "wss scheme: wanted http or https"),
        ("127.0.0.1/mcp", "no scheme: wanted http or https"),
        ("http://u:p@h/", "a user name or password has no place in a URL"),
        ("http://h/?a=1", "a query or fragment has no place in a server's URL"),
        ("http://h/#a", "a query or fragment has no place in a server's URL"),
        ("http://h/?", "a query or fragment has no place in a server's URL"),
        ("http:///mcp", "the URL names no host"),
        ("http://h:0/", "port '0' is not a number from 1 to 65535"),
        ("http://h:99999/", "port '99999' is not a number from 1 to 65535"),
        ("http://h/a b", "a URL is of printable ASCII without space and backslash"),
        ("http://h/a\nb", "a URL is of printable ASCII without space and backslash"),
        ("http://h\\@x/", "a URL is of printable ASCII without space and backslash"),
        ("http://bücher/", "a URL is of printable ASCII without space and backslash"),
        ("http://[::1/", "no URL"),
    ],
)
def test_what_is_no_server_url(url: str, words: str) -> None:
    """Each refusal says which part has no place."""
    with pytest.raises(ValidationError, match="Value error") as caught:
        _read(fields.ServerUrlField, url)
    assert str(caught.value.errors()[0]["ctx"]["error"]) == words


@pytest.mark.parametrize(
    "pin",
    [
        "",
        "sha256/",
        "sha256/AAAA",
        "sha1/" + "A" * 43 + "=",
        "sha256/" + "A" * 44,
        "sha256/" + "_" * 43 + "=",
        5,
    ],
)
def test_what_is_no_pin(pin: object) -> None:
    """A pin is sha256/ and the base64 of exactly 32 bytes."""
    with pytest.raises(ValidationError):
        _read(fields.PinField, pin)


@pytest.mark.parametrize(
    "path", ["files", "/a?b", "/a#b", "/a b", "/../x", "/a/./b", "//a", "/%2e", "/a\\b", "/ä", ""]
)
def test_what_is_no_exposed_path(path: str) -> None:
    """A path is compared literally, so it is written in one form only."""
    with pytest.raises(ValidationError):
        _read(fields.ExposedPathField, path)


@pytest.mark.parametrize(
    "origin", ["https://a.example.com/", "https://a/b", "null", "*", "ftp://a", "https://u@a"]
)
def test_what_is_no_origin(origin: str) -> None:
    """Scheme, host and port only (RFC 6454 §6.2); no wildcard."""
    with pytest.raises(ValidationError):
        _read(fields.OriginField, origin)


@pytest.mark.parametrize(
    "domain", ["1.2.3.4", "a..b", "tunnel.example.com.", "*.example.com", "-a.b", "a_b.c", "link.a.b", 3]
)
def test_what_is_no_domain(domain: object) -> None:
    """No wildcard, no final dot, no underscore, no IP address, and nothing of the links' names."""
    with pytest.raises(ValidationError):
        _read(fields.DomainField, domain)


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", 3, None])
def test_what_is_no_path(path: object) -> None:
    """A path is text that can be printed."""
    with pytest.raises(ValidationError):
        _read(fields.PathField, path)


def test_loopback_is_recognised() -> None:
    """All of 127/8, ::1 and localhost; nothing else."""
    assert Address("127.9.9.9", 1).is_loopback
    assert Address("::1", 1).is_loopback
    assert Address("localhost", 1).is_loopback
    assert not Address("localhost.example.com", 1).is_loopback
    assert not Address("::", 1).is_loopback


@given(st.text(max_size=60))
def test_any_text_is_a_document_or_refused(text: str) -> None:
    """Nothing but the documented error leaves the reader."""
    try:
        document = read_document(text)
    except DocumentRefused:
        return
    assert all(line >= 1 for line in document.lines.values())
