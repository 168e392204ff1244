"""A caller's bundle: whole and fitting together, or refused by the fault."""

from pathlib import Path

import pytest

from sallyport.certs.authority import new_key
from sallyport.certs.bundle import Bundle, encode_bundle
from sallyport.certs.errors import CertificateRefused, FileRefused, Rule
from sallyport.certs.names import Role, TunnelId
from sallyport.certs.pem import encode_certificates, encode_key
from sallyport.certs.storage import write_private
from tests.certs.certificate_kit import DOMAIN, Tunnel

TUNNEL = Tunnel.make()
PRESENTED, KEY = TUNNEL.leaf(Role.CALLER, "alice")
ROOT = TUNNEL.root.certificate
GOOD = encode_bundle(KEY, PRESENTED, ROOT, domain=DOMAIN, relay="relay.test:443")
HEADER, _, BODY = GOOD.partition(b"\n\n")
LEAF_PEM = encode_certificates(PRESENTED[:1])
ISSUING_PEM = encode_certificates(PRESENTED[1:])
ROOT_PEM = encode_certificates([ROOT])


def load(tmp_path: Path, data: bytes) -> Bundle:
    """Load a bundle with this content."""
    path = tmp_path / "alice.bundle.pem"
    write_private(path, data)
    return Bundle.load(path)


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Loading is the mirror of issuing."""
    bundle = load(tmp_path, GOOD)

    assert bundle.tunnel == TunnelId(TUNNEL.label)
    assert (bundle.domain, bundle.relay) == (DOMAIN, "relay.test:443")
    assert (bundle.presented, bundle.leaf, bundle.root) == (PRESENTED, PRESENTED[0], ROOT)


def test_a_bundle_with_a_cross_certificate_presents_it(tmp_path: Path) -> None:
    """Under a successor root the cross certificate belongs to what is presented."""
    tunnel = TUNNEL.succeeded()
    presented, key = tunnel.leaf(Role.CALLER, "alice")

    bundle = load(tmp_path, encode_bundle(key, presented, ROOT, domain=DOMAIN, relay="relay.test:443"))

    assert bundle.presented == presented
    assert len(bundle.presented) == 3


def test_the_order_is_the_one_that_curl_needs() -> None:
    """Header, key, leaf, issuing CA, root: curl takes the first certificate for the client's own."""
    assert GOOD.startswith(b"sallyport-bundle: 1\ntunnel: tnl_")
    assert BODY == encode_key(KEY) + LEAF_PEM + ISSUING_PEM + ROOT_PEM


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"sallyport-bundle: 1", b"sallyport-bundle:   1  "),
        lambda data: data.replace(b"relay: ", b"comment: whatever\nrelay: "),
        lambda data: data.replace(b"relay.test:443", b"relay.test"),
    ],
    ids=["CRLF", "blanks", "a field of the future", "no port"],
)
def test_tolerates_what_does_no_harm(tmp_path: Path, change: object) -> None:
    """Line ends, blanks, an unknown field and a missing port leave a bundle what it is."""
    assert callable(change)

    assert load(tmp_path, change(GOOD)).relay == "relay.test:443"


CASES = {
    "no header": (BODY, "is no bundle"),
    "not our header": (b"# my keys\n" + BODY, "has a header that is no bundle's"),
    "newer version": (GOOD.replace(b"bundle: 1", b"bundle: 2"), "is a bundle of version '2'"),
    "no tunnel": (GOOD.replace(b"tunnel: ", b"x-tunnel: "), "has no `tunnel:`"),
    "no relay": (GOOD.replace(b"relay: relay.test:443\n", b""), "has no `relay:`"),
    "empty domain": (GOOD.replace(b"tunnel.test", b""), "has no `domain:`"),
    "a field twice": (GOOD.replace(b"relay: ", b"relay: a\nrelay: "), "has a header that is no bundle's"),
    "bad tunnel": (GOOD.replace(b"tnl_", b"tnl-"), "tunnel ID"),
    "bad domain": (GOOD.replace(b"tunnel.test", b"*.test"), "tunnel domain"),
    "bad relay": (GOOD.replace(b"relay.test:443", b"relay.test:x"), "relay address"),
    "cut off": (GOOD[:-300], "ends in the middle"),
    "no root": (GOOD.replace(ROOT_PEM, b""), "does not end with the tunnel's root"),
    "leaf only": (
        GOOD.replace(ROOT_PEM, b"").replace(ISSUING_PEM, b""),
        "does not end with the tunnel's root",
    ),
    "no issuing CA": (GOOD.replace(ISSUING_PEM, b""), "does not hold the issuing CA"),
    "root first": (
        HEADER + b"\n\n" + encode_key(KEY) + ROOT_PEM + LEAF_PEM,
        "does not end with the tunnel's root",
    ),
    "no key": (GOOD.replace(encode_key(KEY), b""), "holds no private key"),
    "two keys": (GOOD + encode_key(KEY), "holds 2 private keys"),
    "no certificate": (HEADER + b"\n\n" + encode_key(KEY), "holds no certificate"),
}


@pytest.mark.parametrize("case", CASES)
def test_says_what_is_wrong_with_a_bundle(tmp_path: Path, case: str) -> None:
    """A bundle that was copied in part, mixed up or edited is refused by a sentence with the remedy."""
    data, reason = CASES[case]

    with pytest.raises(FileRefused, match=reason):
        load(tmp_path, data)


def test_refuses_the_key_of_another_bundle(tmp_path: Path) -> None:
    """Two bundles pasted together are found out."""
    with pytest.raises(
        CertificateRefused, match="caller certificate alice does not belong to the key in"
    ) as refused:
        load(tmp_path, GOOD.replace(encode_key(KEY), encode_key(new_key())))

    assert refused.value.rule is Rule.KEY_MISMATCH


def test_refuses_the_root_of_another_tunnel(tmp_path: Path) -> None:
    """The header's ID is the pin of the root below it."""
    other = encode_certificates([Tunnel.make().root.certificate])

    with pytest.raises(CertificateRefused, match="is not the root of tnl_") as refused:
        load(tmp_path, GOOD.replace(ROOT_PEM, other))

    assert refused.value.rule is Rule.ANCHOR


def test_refuses_a_bundle_that_others_can_read(tmp_path: Path) -> None:
    """A bundle holds a key, and is kept like one."""
    path = tmp_path / "alice.bundle.pem"
    path.write_bytes(GOOD)
    path.chmod(0o644)

    with pytest.raises(FileRefused) as refused:
        Bundle.load(path)

    assert refused.value.hint == f"run: chmod 600 {path}"
