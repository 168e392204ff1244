"""The alert record against a real TLS client, and the table against itself."""

import ssl

import pytest

from sallyport.tunnel.alerts import SPEC_ALERTS, Alert, Situation, alert_record

# What OpenSSL calls the alerts of the table. An OpenSSL that renames one is worth a failing test, because
# the names are what docs/troubleshooting.md tells people to look for.
REASONS = {
    Alert.UNEXPECTED_MESSAGE: "UNEXPECTED_MESSAGE",
    Alert.RECORD_OVERFLOW: "RECORD_OVERFLOW",
    Alert.HANDSHAKE_FAILURE: "HANDSHAKE_FAILURE",
    Alert.ILLEGAL_PARAMETER: "ILLEGAL_PARAMETER",
    Alert.DECODE_ERROR: "DECODE_ERROR",
    Alert.PROTOCOL_VERSION: "PROTOCOL_VERSION",
    Alert.INTERNAL_ERROR: "INTERNAL_ERROR",
    Alert.UNRECOGNIZED_NAME: "UNRECOGNIZED_NAME",
}


def test_an_alert_is_one_fatal_plaintext_record() -> None:
    """The record is the seven bytes of RFC 8446, sections 5.1 and 6."""
    assert alert_record(Alert.UNRECOGNIZED_NAME) == bytes.fromhex("15 03 03 00 02 02 70")


@pytest.mark.parametrize("alert", sorted(set(SPEC_ALERTS.values())), ids=lambda alert: alert.name.lower())
def test_a_client_names_each_alert_of_the_table(alert: Alert) -> None:
    """OpenSSL takes each record for the fatal alert that it is, and reports it by name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(alert_record(alert))
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert caught.value.reason is not None
    assert caught.value.reason.endswith(REASONS[alert])


def test_the_table_answers_every_situation() -> None:
    """No situation is without an alert, and none is answered by closing in silence."""
    assert set(SPEC_ALERTS) == set(Situation)
    assert Alert.CLOSE_NOTIFY not in SPEC_ALERTS.values()


def test_the_three_answers_for_callers_differ() -> None:
    """A caller can tell an unknown tunnel, a missing gateway and a limit apart."""
    assert SPEC_ALERTS[Situation.UNKNOWN_TUNNEL] == 112
    assert SPEC_ALERTS[Situation.NO_GATEWAY] == 80
    assert SPEC_ALERTS[Situation.LIMIT] == 40
