"""Who makes a request: the corpus of headers, without a network."""

import pytest

from sallyport.certs.api_key import ApiKey
from sallyport.gateway.credentials import Headers, Keys, identify
from sallyport.gateway.errors import RequestRefused
from sallyport.gateway.keys import KeyTable, StoredKey
from tests.gateway.test_keys import NOW

KEY = ApiKey.of_random(bytes(range(32)))
TEXT = KEY.text
TABLE = KeyTable([StoredKey("ci", KEY.digest, frozenset({"tickets"}), NOW)])


class FixedKeys:
    """Keys that do not change."""

    def table(self) -> KeyTable:
        return TABLE


KEYS = FixedKeys()
OTHER: Headers = [(b"Accept", b"*/*"), (b"Authorization", b"Bearer eyJhbGciOi")]

CARRIED = [
    (b"Sallyport-Key", TEXT),
    (b"SALLYPORT-KEY", b" " + TEXT + b"\t"),
    (b"Authorization", b"Bearer " + TEXT),
    (b"authorization", b"bEARER   " + TEXT + b" "),
    (b"Authorization", b" Bearer\t" + TEXT),
]

# Headers that carry a key, or are meant to, and are not one good key.
WRONG: list[Headers] = [
    [(b"Sallyport-Key", b"")],
    [(b"Sallyport-Key", b"anything")],
    [(b"Sallyport-Key", TEXT.upper())],
    [(b"Sallyport-Key", TEXT[:-1])],
    [(b"Sallyport-Key", TEXT + b"a")],
    [(b"Sallyport-Key", TEXT + b"a" * 100_000)],
    [(b"Sallyport-Key", TEXT + b", " + TEXT)],
    [(b"Sallyport-Key", b"Bearer " + TEXT)],
    [(b"Sallyport-Key", TEXT[:-1] + "é".encode())],
    [(b"Sallyport-Key", TEXT + b"\x00")],
    [(b"Sallyport-Key", b"sp_" + b"a" * 52)],
    [(b"Authorization", b"Bearer sp_")],
    [(b"Authorization", b"Bearer sp_abc")],
    [(b"Authorization", b"BEARER   sp_")],
    [(b"Authorization", b"Bearer sp_" + b"a" * 52)],
    [(b"Authorization", b"Bearer " + TEXT + b", Bearer eyJ")],
    [(b"Authorization", b"Bearer eyJ, Bearer " + TEXT)],
    [(b"Authorization", TEXT)],
    [(b"Authorization", b"Token " + TEXT)],
    [(b"Authorization", b"Bearer " + TEXT.upper())],
    [(b"Authorization", b'Bearer "' + TEXT + b'"')],
    [(b"Authorization", b"Bearer=" + TEXT)],
    [(b"Sallyport-Key", TEXT), (b"Authorization", b"Bearer " + TEXT)],
    [(b"Sallyport-Key", TEXT), (b"Sallyport-Key", TEXT)],
    [(b"Authorization", b"Bearer " + TEXT), (b"Authorization", b"Bearer " + TEXT)],
    [(b"Sallyport-Key", TEXT), (b"sallyport-key", b"")],
]

NOT_KEYS = [
    (b"Authorization", b"Bearer eyJhbGciOi"),
    (b"Authorization", b"Bearer SP_abc"),
    (b"Authorization", b"Bearer xsp_abc"),
    (b"Authorization", b"Basic c3BfOnNwXw=="),
    (b"Authorization", b"sp_abc"),
    (b"Authorization", b"Bearer eyJ." + TEXT[3:]),
    (b"Authorization", b""),
    (b"X-Authorization", b"Bearer sp_abc"),
    (b"Mcp-Param-Key", b"sp_abc"),
    # Other systems' credentials may begin so, too.
    (b"X-Api-Key", TEXT[:-1]),
    (b"X-Api-Key", b"sp_live_" + TEXT[3:]),
    (b"X-Api-Key", b"sp_" + b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    (b"Cookie", b"id=sp_" + b"AbCdEfGh" * 8),
]

# A whole key in none of the two places that are meant for one, and where the refusal says that it stands.
MISPLACED = [
    ((b"X-Api-Key", TEXT), "X-Api-Key"),
    ((b"x-sallyport-key", TEXT), "x-sallyport-key"),
    ((b"Sallyport_Key", TEXT), "Sallyport_Key"),
    ((b"Sallyport-Other", TEXT), "Sallyport-Other"),
    ((b"Authentication", b"Bearer " + TEXT), "Authentication"),
    ((b"X-Forwarded-Authorization", b"Bearer " + TEXT), "X-Forwarded-Authorization"),
    ((b"Proxy-Authorization", b"Bearer " + TEXT), "Proxy-Authorization"),
    ((b"Cookie", b"a=b; k=" + TEXT + b"; c=d"), "Cookie"),
    ((b"Referer", b"https://page.test/?k=" + TEXT), "Referer"),
    ((b"Authorization", b"Bearer" + TEXT), "Authorization"),
    ((b"Authorization", b"Bearer x" + TEXT), "Authorization"),
    ((b"Authorization", b"Bearer x_" + TEXT + b"234"), "Authorization"),
    ((b"Authorization", b"Basic " + TEXT.upper()), "Authorization"),
    ((b"X-Api-Key", b"Sp_" + TEXT[3:]), "X-Api-Key"),
    ((TEXT, b"x"), "a header's name"),
    ((b"x-" + TEXT, b"x"), "a header's name"),
    ((b"X" * 4000, TEXT), "X" * 64 + ","),
]


def refused(headers: Headers, *, certified: str = "", keys: Keys | None = KEYS) -> RequestRefused:
    """Identify what must be refused."""
    with pytest.raises(RequestRefused) as refusal:
        identify(headers, certified=certified, keys=keys, target=b"/mcp")
    assert TEXT.decode() not in str(refusal.value)
    assert refusal.value.__cause__ is None
    return refusal.value


@pytest.mark.parametrize("header", CARRIED)
def test_a_good_key_is_taken_out(header: tuple[bytes, bytes]) -> None:
    """It names the caller; the other headers keep their order, a bearer of the server's own among them."""
    credential, rest = identify([OTHER[0], header, OTHER[1]], certified="", keys=KEYS, target=b"/mcp")

    assert (credential.principal, credential.trust) == ("key:ci", "key")
    assert rest == OTHER
    credential.require("tickets")
    with pytest.raises(RequestRefused) as refusal:
        credential.require("wiki")
    assert (refusal.value.status, refusal.value.rule) == (403, "key-server")


@pytest.mark.parametrize("headers", WRONG)
@pytest.mark.parametrize("certified", ["", "cert:alice"])
def test_what_is_not_one_good_key_is_401(headers: Headers, certified: str) -> None:
    """Whoever calls, and whatever stands beside it."""
    refusal = refused([*OTHER, *headers], certified=certified)

    assert (refusal.status, refusal.rule) == (401, "key")


@pytest.mark.parametrize("headers", [*WRONG, *([header] for header in CARRIED)])
def test_where_keys_are_off_each_one_is_401(headers: Headers) -> None:
    """It never goes further, good or not."""
    refusal = refused(headers, certified="cert:alice", keys=None)

    assert (refusal.status, refusal.rule) == (401, "key")
    assert "turned off" in refusal.detail


@pytest.mark.parametrize("header", NOT_KEYS)
@pytest.mark.parametrize("keys", [KEYS, None])
def test_what_is_not_a_key_passes(header: tuple[bytes, bytes], keys: Keys | None) -> None:
    """Authorization belongs to the server behind, and so does what only looks like a key."""
    headers: Headers = [(b"Accept", b"*/*"), header, (b"Accept", b"x")]

    credential, rest = identify(headers, certified="cert:alice", keys=keys, target=b"/mcp")

    assert rest == headers
    assert (credential.principal, credential.trust, credential.key) == ("cert:alice", "certificate", None)


@pytest.mark.parametrize(("header", "where"), MISPLACED)
@pytest.mark.parametrize("certified", ["", "cert:alice"])
@pytest.mark.parametrize("beside", [[], [(b"Sallyport-Key", TEXT)]])
@pytest.mark.parametrize("keys", [TABLE, None])
def test_a_whole_key_in_the_wrong_place_goes_no_further(
    header: tuple[bytes, bytes], where: str, certified: str, beside: Headers, keys: Keys | None
) -> None:
    """The server would read it: 401, with the place and without the key; beside a good one as well."""
    refusal = refused([*OTHER, *beside, header, (b"Accept", b"x")], certified=certified, keys=keys)

    assert (refusal.status, refusal.rule) == (401, "key")
    assert f"an API key stands in {where}" in refusal.detail
    assert TEXT.decode() not in refusal.detail.lower()
    assert ("turned off" if keys is None else "belongs in Sallyport-Key") in refusal.detail


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (b"/mcp?key=" + TEXT, "the query"),
        (b"/mcp?a=b&key=" + TEXT.upper() + b"&c", "the query"),
        (b"/mcp/" + TEXT, "the path"),
        (b"/" + TEXT + b"/mcp?a=b", "the path"),
    ],
)
@pytest.mark.parametrize("headers", [[], [(b"Sallyport-Key", TEXT)]])
def test_a_whole_key_in_the_target_goes_no_further(target: bytes, where: str, headers: Headers) -> None:
    """Servers write those into their logs."""
    with pytest.raises(RequestRefused) as refusal:
        identify(headers, certified="cert:alice", keys=TABLE, target=target)
    assert (refusal.value.status, refusal.value.rule) == (401, "key")
    assert f"an API key stands in {where}," in refusal.value.detail
    assert TEXT.decode() not in str(refusal.value).lower()


def test_with_a_certificate_and_a_key_the_key_still_binds() -> None:
    """The principal is the certificate's, and the key is for its servers only."""
    credential, rest = identify([(b"Sallyport-Key", TEXT)], certified="cert:alice", keys=KEYS, target=b"/")

    assert (credential.principal, credential.trust, rest) == ("cert:alice", "certificate", [])
    with pytest.raises(RequestRefused):
        credential.require("wiki")


@pytest.mark.parametrize("header", NOT_KEYS)
def test_without_certificate_and_key_nobody_is_nobody(header: tuple[bytes, bytes]) -> None:
    """The server's own Authorization does not say who calls the tunnel."""
    refusal = refused([header])

    assert (refusal.status, refusal.rule) == (401, "unidentified")
