"""Two TLS engines and a wire that a test holds: alerts, truncation, order, records cut anywhere."""


import pytest

from sallyport.certs.contexts import caller_context, door_context
from sallyport.certs.names import tunnel_host
from sallyport.tunnel.errors import TlsFailed, TlsTruncated
from sallyport.tunnel.tls_engine import TlsEngine
from tests.harness.identity import DOMAIN, TestIdentity


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make one tunnel for all tests of this file."""
    return TestIdentity(tmp_path_factory.mktemp("tunnel") / "identity")


@pytest.fixture(scope="module")
def other_identity(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make another tenant's tunnel."""
    return TestIdentity(tmp_path_factory.mktemp("other") / "identity")


def gateway_engine(identity: TestIdentity) -> TlsEngine:
    """Return the gateway's end."""
    context = door_context(identity.directory.gateway("gw"), identity.root)
    return TlsEngine(context, server_side=True)


def caller_engine(identity: TestIdentity, host: str | None = None) -> TlsEngine:
    """Return the caller's end, asking for the tunnel's own name or another."""
    name = host or tunnel_host(identity.label, DOMAIN)
    return TlsEngine(caller_context(identity.bundle), server_side=False, server_hostname=name)


def carry(source: TlsEngine, target: TlsEngine, step: int = 1 << 20) -> bytes:
    """Carry all that one engine has to send to the other, in pieces, and return the plaintext."""
    data, plaintext = source.data_to_send(), b""
    for start in range(0, len(data), step):
        plaintext += target.receive(data[start : start + step])
    return plaintext


def shake(caller: TlsEngine, gateway: TlsEngine, step: int = 1 << 20) -> None:
    """Complete a handshake."""
    caller.start()
    carry(caller, gateway, step)
    carry(gateway, caller, step)
    carry(caller, gateway, step)
    assert caller.handshake_complete
    assert gateway.handshake_complete


@pytest.mark.parametrize("step", [1, 7, 16384])
def test_handshake_and_records_survive_any_cut(identity: TestIdentity, step: int) -> None:
    """Bytes may arrive one at a time: the handshake completes and the plaintext is whole."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway, step)
    caller.send(b"question" * 5000)
    assert carry(caller, gateway, step) == b"question" * 5000
    gateway.send(b"answer")
    assert carry(gateway, caller, step) == b"answer"


def test_tls_1_3_without_tickets(identity: TestIdentity) -> None:
    """The protocol is TLS 1.3, the private application protocol is chosen and no session can be resumed."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway)
    gateway.send(b"x")
    carry(gateway, caller)
    assert caller.tls.version() == "TLSv1.3"
    assert caller.tls.selected_alpn_protocol() == "sallyport/1"
    assert caller.tls.session is None or not caller.tls.session.has_ticket


def test_close_notify_is_the_end_and_not_an_error(identity: TestIdentity) -> None:
    """What was sent before close_notify arrives, then the peer counts as closed; what follows is ignored."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway)
    gateway.send(b"last words")
    gateway.close()
    assert carry(gateway, caller) == b"last words"
    assert caller.peer_closed
    caller.receive_eof()
    assert caller.receive(b"rubbish behind the end") == b""


def test_an_end_without_close_notify_is_truncation(identity: TestIdentity) -> None:
    """An end of file alone is an error that says when it happened."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    caller.start()
    with pytest.raises(TlsTruncated, match="during the handshake"):
        caller.receive_eof()
    caller = caller_engine(identity)
    shake(caller, gateway_engine(identity))
    with pytest.raises(TlsTruncated, match="after the handshake"):
        caller.receive_eof()
    assert gateway.data_to_send() == b""


def test_a_refused_peer_gets_its_alert(identity: TestIdentity, other_identity: TestIdentity) -> None:
    """Whoever refuses has an alert to send after the error, and the peer reads its name."""
    caller, gateway = caller_engine(identity), gateway_engine(other_identity)
    caller.start()
    carry(caller, gateway)
    with pytest.raises(TlsFailed) as refused:
        carry(gateway, caller)
    assert refused.value.alert is None
    with pytest.raises(TlsFailed) as told:
        carry(caller, gateway)
    assert told.value.alert == "unknown_ca"


def test_a_caller_without_a_certificate_is_told_so(identity: TestIdentity) -> None:
    """A client that presents nothing completes its own handshake and then reads the alert."""
    import ssl

    context = ssl.create_default_context(cafile=str(identity.directory.root_path))
    name = tunnel_host(identity.label, DOMAIN)
    caller = TlsEngine(context, server_side=False, server_hostname=name)
    gateway = gateway_engine(identity)
    caller.start()
    carry(caller, gateway)
    carry(gateway, caller)
    with pytest.raises(TlsFailed):
        carry(caller, gateway)
    with pytest.raises(TlsFailed) as told:
        carry(gateway, caller)
    assert told.value.alert == "certificate_required"


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_changed_byte_is_an_error(identity: TestIdentity, place: str) -> None:
    """A record that was changed on the way is refused and gives no plaintext."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway)
    caller.send(b"transfer 10 to bob")
    record = bytearray(caller.data_to_send())
    at = {"first": 5, "middle": len(record) // 2, "last": len(record) - 1}[place]
    record[at] ^= 1
    with pytest.raises(TlsFailed):
        gateway.receive(record)


def test_what_came_whole_before_a_broken_record_is_not_lost(identity: TestIdentity) -> None:
    """Good records before a bad one in the same read give their plaintext; then the failure is known."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway)
    caller.send(b"good")
    good = caller.data_to_send()
    caller.send(b"bad")
    bad = bytearray(caller.data_to_send())
    bad[-1] ^= 1
    assert gateway.receive(good + bad) == b"good"
    assert gateway.failure is not None
    with pytest.raises(TlsFailed):
        gateway.receive(b"more")


def test_a_replayed_record_is_an_error(identity: TestIdentity) -> None:
    """The same record a second time is refused."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway)
    caller.send(b"transfer 10 to bob")
    record = caller.data_to_send()
    assert gateway.receive(record) == b"transfer 10 to bob"
    with pytest.raises(TlsFailed):
        gateway.receive(record)


def test_a_wrong_name_is_refused(identity: TestIdentity) -> None:
    """A caller that asked for another name than the certificate's does not go on."""
    caller = caller_engine(identity, host=f"x.y.{tunnel_host(identity.label, DOMAIN)}")
    gateway = gateway_engine(identity)
    caller.start()
    carry(caller, gateway)
    with pytest.raises(TlsFailed, match="match"):
        carry(gateway, caller)


def test_sending_much_makes_whole_records(identity: TestIdentity) -> None:
    """Megabytes given at once arrive whole."""
    caller, gateway = caller_engine(identity), gateway_engine(identity)
    shake(caller, gateway)
    data = bytes(range(256)) * 12_345
    caller.send(data)
    assert carry(caller, gateway, 65536) == data
