"""What alerts and broken connections mean, in words."""

import ssl

import pytest

from sallyport.certs.errors import CertificateRefused, Rule
from sallyport.connector.errors import (
    CallerRefused,
    GatewayLost,
    GatewayRefused,
    HandshakeFailed,
    HopFailed,
    NoGatewayConnected,
    RelayAtLimit,
    TunnelUnknown,
)
from sallyport.connector.refusals import Attempt, explain_handshake, explain_loss
from sallyport.tunnel.errors import BodyTruncated, HttpRefused, TlsFailed, TlsTruncated
from sallyport.tunnel.net.tcp import reason_of

TUNNEL = "tnl_" + "a" * 32
ATTEMPT = Attempt(TUNNEL, "alice", "0123456789abcdef")

# What the relay says, before any gateway has spoken: alert, error, hop, words.
RELAY_SAYS: list[tuple[str, type[HopFailed], str, str]] = [
    (
        "unrecognized_name",
        TunnelUnknown,
        "relay",
        f"the relay does not know tunnel {TUNNEL} (or it was archived)",
    ),
    ("internal_error", NoGatewayConnected, "relay", f"no gateway is connected for tunnel {TUNNEL}"),
    ("handshake_failure", RelayAtLimit, "relay", "the relay is at a limit"),
    ("protocol_version", HandshakeFailed, "gateway", "TLS alert protocol_version"),
    ("certificate_expired", HandshakeFailed, "gateway", "TLS alert certificate_expired"),
]

# What a gateway says about the caller's certificate: alert, words, remedy.
GATEWAY_SAYS = [
    ("certificate_expired", "has expired", "certs issue caller"),
    ("certificate_revoked", "was revoked", "certs issue caller"),
    ("certificate_required", "presented no certificate", "certs issue caller"),
    ("unknown_ca", "does not lead to the root", "identity made anew"),
    ("bad_certificate", "breaks a rule", "gateway's log"),
    ("unsupported_certificate", "of a kind that may not call", "gateway's log"),
    ("certificate_unknown", "was not accepted", "gateway's log"),
    ("access_denied", "not admitted", "gateway's log"),
    ("decrypt_error", "signature does not fit", "certs issue caller"),
]


@pytest.mark.parametrize(("alert", "kind", "hop", "words"), RELAY_SAYS)
def test_an_alert_before_the_handshake_is_the_relays(
    alert: str, kind: type[HopFailed], hop: str, words: str
) -> None:
    """Each alert of the relay's table has its own error; any other says no more than its name."""
    error = explain_handshake(TlsFailed(alert, "OpenSSL's words"), ATTEMPT)
    assert type(error) is kind
    assert error.hop == hop
    assert error.reference == ATTEMPT.reference
    assert words in str(error)
    assert error.hint


@pytest.mark.parametrize(("alert", "words", "remedy"), GATEWAY_SAYS)
def test_an_alert_after_the_handshake_is_about_our_certificate(alert: str, words: str, remedy: str) -> None:
    """What the gateway refuses is said with the caller's name, the alert's and a remedy."""
    error = explain_loss(TlsFailed(alert, "OpenSSL's words"), ATTEMPT)
    assert isinstance(error, CallerRefused)
    assert error.hop == "gateway"
    assert str(error).startswith(f"the gateway of tunnel {TUNNEL} refuses caller alice: ")
    assert words in str(error)
    assert alert in str(error)
    assert remedy in error.hint


def test_a_peer_that_the_verifier_refuses_is_no_gateway() -> None:
    """The attack case names the rule, and says that nothing was sent."""
    refused = CertificateRefused(Rule.ROLE, "link certificate gw", "is presented where a gateway is required")
    error = explain_handshake(refused, ATTEMPT)
    assert isinstance(error, GatewayRefused)
    assert str(error) == (
        f"what answered is not a gateway of tunnel {TUNNEL}: rule role: "
        "link certificate gw is presented where a gateway is required"
    )
    assert "nothing was sent" in error.hint


def test_a_chain_that_tls_itself_refuses_is_no_gateway_either() -> None:
    """A certificate of another root never reaches the strict verifier, and is the same case."""
    failed = TlsFailed(None, "self-signed certificate in certificate chain")
    failed.__cause__ = ssl.SSLCertVerificationError(1, "whatever")
    error = explain_handshake(failed, ATTEMPT)
    assert isinstance(error, GatewayRefused)
    assert (error.rule, error.detail) == ("chain", "self-signed certificate in certificate chain")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TlsFailed(None, "wrong version number"), "wrong version number"),
        (TlsTruncated("during the handshake"), "closed without a word"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset by peer"),
    ],
)
def test_a_handshake_that_nobody_refused_failed(error: Exception, words: str) -> None:
    """Rubbish, an end of file and a reset are told apart."""
    explained = explain_handshake(error, ATTEMPT)
    assert isinstance(explained, HandshakeFailed)
    assert words in str(explained)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "closed before the answer was complete"),
        (TlsTruncated("after the handshake"), "closed before the answer was complete"),
        (BodyTruncated(3, 5), "closed before the answer was complete"),
        (HttpRefused(502, "bare LF"), "no HTTP answer (bare LF)"),
        (TlsFailed(None, "bad record mac"), "bad record mac"),
        (TlsFailed("internal_error", ""), "TLS alert internal_error"),
        (TimeoutError(), "took too long"),
        (TimeoutError(110, "Connection timed out"), "connection timed out"),
        (BrokenPipeError(32, "Broken pipe"), "broken pipe"),
    ],
)
def test_a_connection_that_broke_is_lost(error: Exception | None, words: str) -> None:
    """However an accepted connection ends before its answer, it is named."""
    explained = explain_loss(error, ATTEMPT)
    assert isinstance(explained, GatewayLost)
    assert words in str(explained)


@pytest.mark.parametrize("mistake", [ValueError("x"), AssertionError(), RuntimeError("y")])
def test_a_mistake_of_ours_is_not_explained_away(mistake: Exception) -> None:
    """What no network can cause is left for the log, with its traceback."""
    assert explain_handshake(mistake, ATTEMPT) is None
    assert explain_loss(mistake, ATTEMPT) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(111, "Connection refused"), "connection refused"),
        (OSError("only a text"), "only a text"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_reason_of_an_operating_system_error(error: OSError, words: str) -> None:
    """The words are the system's, without its number."""
    assert reason_of(error).lower() == words.lower()
