"""TLS contexts: every flag, exactly what is presented, and what real handshakes make of them."""

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from sallyport.certs.authority import make_relay_authority
from sallyport.certs.contexts import (
    CaFile,
    Pin,
    RelayTrust,
    SystemStore,
    caller_context,
    check_pin,
    door_context,
    link_client_context,
    link_server_context,
)
from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.certs.files import LeafFiles
from sallyport.certs.names import Role, link_host
from sallyport.certs.pem import encode_certificates
from sallyport.certs.storage import write_public
from sallyport.certs.verify import verified_chain, verify_identity
from tests.certs.certificate_kit import (
    DAY,
    DOMAIN,
    NOW,
    Chain,
    Tunnel,
    Wire,
    drafts,
    lawless_context,
    shake_hands,
    write_leaf,
)

NO_CHECK_TIME = 0x200000

Make = Callable[[Path], ssl.SSLContext]


def relay_files(folder: Path, *hosts: str) -> tuple[LeafFiles, x509.Certificate]:
    """Make a relay's certificate and key files, and its CA's certificate."""
    made = make_relay_authority([f"*.link.{DOMAIN}", *hosts], NOW)
    return write_leaf(folder, (made.certificate,), made.key), made.authority.certificate


def ca_file(folder: Path, *certificates: x509.Certificate) -> CaFile:
    """Write a CA file."""
    path = folder / "ca.pem"
    write_public(path, encode_certificates(certificates))
    return CaFile(path)


def door(folder: Path) -> ssl.SSLContext:
    """Make a gateway's door."""
    tunnel = Tunnel.make()
    return door_context(tunnel.leaf_files(folder, Role.GATEWAY), tunnel.root.certificate)


def caller(folder: Path) -> ssl.SSLContext:
    """Make a connector's context."""
    return caller_context(Tunnel.make().bundle(folder))


def link_server(folder: Path) -> ssl.SSLContext:
    """Make a relay's context for one label."""
    files, _ = relay_files(folder)
    return link_server_context(files.certificate, files.key, Tunnel.make().root.certificate)


def link_client(trust: Callable[[Path], RelayTrust]) -> Make:
    """Make a function that makes a gateway's outer context."""

    def make(folder: Path) -> ssl.SSLContext:
        return link_client_context(Tunnel.make().leaf_files(folder, Role.LINK), trust(folder))

    return make


by_file = link_client(lambda folder: ca_file(folder, relay_files(folder)[1]))
by_pin = link_client(lambda _: Pin(bytes(32)))
by_system = link_client(lambda _: SystemStore())

OURS = {
    "door": door,
    "caller": caller,
    "link server": link_server,
    "file": by_file,
    "pin": by_pin,
    "system": by_system,
}


@pytest.mark.parametrize("name", OURS)
def test_flags_that_all_contexts_share(name: str, tmp_path: Path) -> None:
    """TLS 1.3 only, nothing to resume, nothing compressed, truncation an error, no names from the CN."""
    context = OURS[name](tmp_path)

    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_TICKET
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert not context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert not context.verify_flags & ssl.VERIFY_ALLOW_PROXY_CERTS
    assert not context.hostname_checks_common_name
    assert not context.post_handshake_auth
    assert context.keylog_filename is None
    assert context.security_level == 2


@pytest.mark.parametrize(
    ("name", "mode", "host", "strict"),
    [
        ("door", ssl.CERT_REQUIRED, False, True),
        ("caller", ssl.CERT_REQUIRED, True, True),
        ("link server", ssl.CERT_REQUIRED, False, True),
        ("file", ssl.CERT_REQUIRED, True, False),
        ("system", ssl.CERT_REQUIRED, True, False),
        ("pin", ssl.CERT_NONE, False, True),
    ],
)
def test_whom_each_context_checks(
    name: str, mode: ssl.VerifyMode, host: bool, strict: bool, tmp_path: Path
) -> None:
    """A certificate is required everywhere but under a pin, and clients check the host."""
    context = OURS[name](tmp_path)

    assert context.verify_mode is mode
    assert context.check_hostname is host
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is strict


@pytest.mark.parametrize("name", OURS)
def test_only_the_relay_leaves_the_clock_to_the_verifier(name: str, tmp_path: Path) -> None:
    """OpenSSL's time check is off in one place."""
    assert bool(OURS[name](tmp_path).verify_flags & NO_CHECK_TIME) is (name == "link server")


@pytest.mark.parametrize("name", ["door", "caller", "link server", "file"])
def test_a_trust_store_holds_one_self_signed_root(name: str, tmp_path: Path) -> None:
    """Issuing CAs are never in a store: it would vouch for them."""
    stored = [
        x509.load_der_x509_certificate(der) for der in OURS[name](tmp_path).get_ca_certs(binary_form=True)
    ]

    assert len(stored) == 1
    assert stored[0].issuer == stored[0].subject


def test_the_environment_cannot_make_us_write_down_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSLKEYLOGFILE, which Python's default context obeys, is ignored."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

    assert caller(tmp_path).keylog_filename is None
    assert not (tmp_path / "secrets").exists()


# The inner layer


def presented_by(end: ssl.SSLObject) -> list[bytes]:
    """List what the peer sent, not what was built of it."""
    if hasattr(end, "get_unverified_chain"):
        return list(end.get_unverified_chain())
    chain = end._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(member.public_bytes()) for member in chain]


def test_caller_and_gateway_meet(tmp_path: Path) -> None:
    """Both ends know each other by name, speak sallyport/1, and presented leaf and issuing CA, no root."""
    tunnel = Tunnel.make()
    files = tunnel.leaf_files(tmp_path, Role.GATEWAY)
    bundle = tunnel.bundle(tmp_path)

    done = shake_hands(
        door_context(files, tunnel.root.certificate), caller_context(bundle), tunnel.host
    ).require()

    label = tunnel.label
    assert verify_identity(verified_chain(done.client), role=Role.GATEWAY, label=label, now=NOW).name == "gw1"
    assert (
        verify_identity(verified_chain(done.server), role=Role.CALLER, label=label, now=NOW).name == "alice"
    )
    assert done.client.selected_alpn_protocol() == done.server.selected_alpn_protocol() == "sallyport/1"
    assert done.client.version() == "TLSv1.3"
    for end, presented in ((done.client, files.load_presented()), (done.server, bundle.presented)):
        assert presented_by(end) == [
            ssl.PEM_cert_to_DER_cert(encode_certificates([c]).decode()) for c in presented
        ]


@pytest.mark.parametrize("host", ["", "tickets.", "wiki."])
def test_every_name_of_the_tunnel_is_the_gateways(tmp_path: Path, host: str) -> None:
    """The wildcard and the bare label answer for all that callers ask for."""
    tunnel = Tunnel.make()
    door = door_context(tunnel.leaf_files(tmp_path, Role.GATEWAY), tunnel.root.certificate)

    shake_hands(door, caller_context(tunnel.bundle(tmp_path)), f"{host}{tunnel.host}").require()


@pytest.mark.parametrize(
    "host", ["a.b.{host}", "{label}.elsewhere.test", "tunnel.test", "{label}.link.tunnel.test"]
)
def test_the_caller_refuses_every_other_name(tmp_path: Path, host: str) -> None:
    """A gateway's certificate is for its tunnel's names and no deeper."""
    tunnel = Tunnel.make()
    door = door_context(tunnel.leaf_files(tmp_path, Role.GATEWAY), tunnel.root.certificate)

    done = shake_hands(
        door, caller_context(tunnel.bundle(tmp_path)), host.format(host=tunnel.host, label=tunnel.label)
    )

    assert isinstance(done.client_error, ssl.SSLCertVerificationError)


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["sallyport/1"], "sallyport/1"),
        (["http/1.1"], "http/1.1"),
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.1", "sallyport/1"], "sallyport/1"),
        ([], None),
    ],
)
def test_the_door_selects_what_it_speaks(tmp_path: Path, offered: list[str], selected: str | None) -> None:
    """Of a caller's list the door takes its own protocol first, then HTTP/1.1."""
    tunnel = Tunnel.make()
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, *tunnel.leaf(Role.CALLER, "a"))
    if offered:
        client.set_alpn_protocols(offered)
    door = door_context(tunnel.leaf_files(tmp_path, Role.GATEWAY), tunnel.root.certificate)

    assert shake_hands(door, client, tunnel.host).require().server.selected_alpn_protocol() == selected


def test_the_door_requires_a_certificate(tmp_path: Path) -> None:
    """A caller without one does not get through the handshake."""
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path)

    done = shake_hands(door(tmp_path), client, "any.test")

    assert done.server_error is not None
    assert done.server_error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert done.client_error is not None
    assert "CERTIFICATE_REQUIRED" in str(done.client_error.reason)


def test_a_caller_of_another_tunnel_is_refused_in_the_handshake(tmp_path: Path) -> None:
    """The door trusts one root."""
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, *Tunnel.make().leaf(Role.CALLER, "a"))

    done = shake_hands(door(tmp_path), client, "any.test")

    assert isinstance(done.server_error, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("name", ["door", "link server"])
def test_older_tls_is_refused(tmp_path: Path, name: str, version: ssl.TLSVersion) -> None:
    """TLS 1.2 ends in a protocol_version alert."""
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path)
    client.maximum_version = version

    done = shake_hands(OURS[name](tmp_path), client, "any.test")

    assert done.server_error is not None
    assert done.server_error.reason == "UNSUPPORTED_PROTOCOL"


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    """No ticket is sent, so no later connection can skip the certificate."""
    tunnel = Tunnel.make()
    door = door_context(tunnel.leaf_files(tmp_path, Role.GATEWAY), tunnel.root.certificate)

    done = shake_hands(door, caller_context(tunnel.bundle(tmp_path)), tunnel.host).require()

    session = done.client.session
    assert session is None or not session.has_ticket


def test_a_cut_without_close_notify_is_an_error(tmp_path: Path) -> None:
    """A relay that cuts a stream cannot make it look finished."""
    tunnel = Tunnel.make()
    door = door_context(tunnel.leaf_files(tmp_path, Role.GATEWAY), tunnel.root.certificate)
    wire = Wire()
    done = shake_hands(door, caller_context(tunnel.bundle(tmp_path)), tunnel.host, wire=wire).require()

    wire.to_client.write_eof()

    # Python before 3.11.4 has the plain class for it.
    with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
        done.client.read(1)


def test_the_root_of_a_bundle_is_the_only_one_trusted(tmp_path: Path) -> None:
    """A gateway of another tunnel with a perfect chain is refused in the caller's handshake."""
    theirs, ours = Tunnel.make(), Tunnel.make()
    bundle = replace(ours.bundle(tmp_path), root=ours.root.certificate)
    door = door_context(theirs.leaf_files(tmp_path, Role.GATEWAY), ours.root.certificate)

    done = shake_hands(door, caller_context(bundle), theirs.host)

    assert isinstance(done.client_error, ssl.SSLCertVerificationError)


# The link layer


def link_pair(
    folder: Path, tunnel: Tunnel, trust: Callable[[x509.Certificate, Path], RelayTrust]
) -> tuple[ssl.SSLContext, ssl.SSLContext, RelayTrust]:
    """Make both ends of a link, the gateway's by a trust made of the relay's CA and files."""
    files, authority = relay_files(folder)
    chosen = trust(authority, files.certificate)
    server = link_server_context(files.certificate, files.key, tunnel.root.certificate)
    return server, link_client_context(tunnel.leaf_files(folder, Role.LINK), chosen), chosen


def _pin_of(_: x509.Certificate, file: Path) -> RelayTrust:
    return Pin.of(x509.load_pem_x509_certificate(file.read_bytes()))


@pytest.mark.parametrize("trust", ["file", "pin"])
def test_gateway_and_relay_meet(tmp_path: Path, trust: str) -> None:
    """By a CA file or by a pin, the relay is proven; the relay sees the link's identity."""
    tunnel = Tunnel.make()
    make = _pin_of if trust == "pin" else lambda authority, _: ca_file(tmp_path, authority)
    server, client, chosen = link_pair(tmp_path, tunnel, make)

    done = shake_hands(server, client, link_host(tunnel.label, DOMAIN)).require()

    check_pin(done.client, chosen)
    identity = verify_identity(verified_chain(done.server), role=Role.LINK, label=tunnel.label, now=NOW)
    assert identity.name == "gw1"
    assert done.client.selected_alpn_protocol() == "http/1.1"


def test_a_relay_with_another_key_is_refused_by_the_pin(tmp_path: Path) -> None:
    """Under a pin, the handshake goes through with anybody: the check after it is what counts."""
    tunnel = Tunnel.make()
    server, client, _ = link_pair(tmp_path, tunnel, lambda *_: Pin(bytes(32)))

    done = shake_hands(server, client, link_host(tunnel.label, DOMAIN)).require()

    with pytest.raises(CertificateRefused, match="not the pinned") as refused:
        check_pin(done.client, Pin(bytes(32)))
    assert refused.value.rule is Rule.PIN


def test_checking_another_trust_than_the_contexts_is_a_mistake_of_ours(tmp_path: Path) -> None:
    """A context made for a pin has checked nothing, so nothing but the pin may be taken for the check."""
    tunnel = Tunnel.make()
    server, client, _ = link_pair(tmp_path, tunnel, lambda *_: Pin(bytes(32)))
    done = shake_hands(server, client, link_host(tunnel.label, DOMAIN)).require()

    with pytest.raises(AssertionError):
        check_pin(done.client, SystemStore())


@pytest.mark.parametrize("host", [f"x.{DOMAIN}", f"a.b.link.{DOMAIN}", "x.link.elsewhere.test"])
def test_the_gateway_checks_the_relays_name(tmp_path: Path, host: str) -> None:
    """A CA file vouches for the relay's own names only."""
    server, client, _ = link_pair(tmp_path, Tunnel.make(), lambda authority, _: ca_file(tmp_path, authority))

    done = shake_hands(server, client, host)

    assert isinstance(done.client_error, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("trust", ["another CA", "system"])
def test_the_gateway_refuses_a_relay_of_another_ca(tmp_path: Path, trust: str) -> None:
    """Only what the operator named proves a relay."""
    other = make_relay_authority(["other.test"], NOW).authority.certificate
    tunnel = Tunnel.make()
    server, client, _ = link_pair(
        tmp_path, tunnel, lambda *_: SystemStore() if trust == "system" else ca_file(tmp_path, other)
    )

    done = shake_hands(server, client, link_host(tunnel.label, DOMAIN))

    assert isinstance(done.client_error, ssl.SSLCertVerificationError)


def test_an_expired_link_gets_through_tls_and_is_refused_in_words(tmp_path: Path) -> None:
    """The relay's handshake leaves the time to the verifier, which names it."""
    drawn = drafts(Role.LINK, name="gw1")
    drawn.leaf.begins, drawn.leaf.ends = NOW - 9 * DAY, NOW - DAY
    chain: Chain = drawn.chain()
    files, _ = relay_files(tmp_path)
    server = link_server_context(files.certificate, files.key, chain[-1])
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, chain[:-1], drawn.leaf.key)

    done = shake_hands(server, client, "any.test").require()

    with pytest.raises(CertificateRefused, match="link certificate gw1 expired on"):
        verify_identity(verified_chain(done.server), role=Role.LINK, label=drawn.label, now=NOW)


def test_another_tenants_root_with_the_victims_subject_and_key_identifier(tmp_path: Path) -> None:
    """
    It breaks the victim's chain in a shared store, and does nothing where each label has a context of its
    own.

    OpenSSL takes the first issuer with the name and key identifier, finds the wrong key and gives up:
    identity §4.
    """
    victim = drafts(Role.LINK)
    hostile = drafts(Role.LINK).root
    hostile.subject = victim.root.subject
    hostile.identifier = victim.root.key_identifier
    impostor = hostile.sign(hostile)
    chain = victim.chain()
    files, _ = relay_files(tmp_path)
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, chain[:-1], victim.leaf.key)

    shared = link_server_context(files.certificate, files.key, impostor)
    shared.load_verify_locations(cadata=encode_certificates([chain[-1]]).decode())
    own = link_server_context(files.certificate, files.key, chain[-1])

    assert isinstance(shake_hands(shared, client, "any.test").server_error, ssl.SSLCertVerificationError)
    done = shake_hands(own, client, "any.test").require()
    assert verify_identity(verified_chain(done.server), role=Role.LINK, label=victim.label, now=NOW)


def test_a_relays_chain_is_presented_whole(tmp_path: Path) -> None:
    """A relay's certificate from a CA with an intermediate brings the intermediate along."""
    tunnel = Tunnel.make()
    presented, key = tunnel.leaf(Role.GATEWAY, "gw1")
    files = write_leaf(tmp_path, presented, key)
    server = link_server_context(files.certificate, files.key, tunnel.root.certificate)
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, *tunnel.leaf(Role.LINK, "gw1"))

    done = shake_hands(server, client, tunnel.host).require()

    assert len(presented_by(done.client)) == 2
