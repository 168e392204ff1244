"""What ``gateway status`` makes of an answer, whoever gave it."""

import pytest

from sallyport.gateway.errors import StatusUnavailable
from sallyport.gateway.status import parse_status


@pytest.mark.parametrize("answer", [None, [], "gateway", 5, {}, {"domain": "x", "links": []}])
def test_what_is_no_gateway_is_refused(answer: object) -> None:
    """A relay's health listener answers JSON, too."""
    with pytest.raises(StatusUnavailable) as refusal:
        parse_status(answer, "127.0.0.1:7421")

    assert "127.0.0.1:7421" in str(refusal.value)
    assert refusal.value.hint


def test_missing_keys_are_dashes() -> None:
    """A gateway of another version is shown as far as it goes."""
    status = parse_status({"gateway": "gw1", "relay": [], "servers": [{"server": "tickets"}, 5]}, "x")

    assert ("gateway", "gw1") in status.facts
    assert ("relay", "–") in status.facts
    assert status.servers == [("tickets", "–", "–", "–", "")]


def test_a_whole_answer() -> None:
    """Link, round trip, certificates and the last thing that went wrong at a server."""
    answer = {
        "gateway": "gw1",
        "tunnel": "tnl_x",
        "software": "sallyport 0.1.0",
        "streams": 3,
        "relay": {
            "address": "relay:443",
            "link": "up",
            "since": "2026-11-21T12:00:00+00:00",
            "rtt_ms": 1.5,
            "last_error": "",
        },
        "certificates": [{"name": "gateway", "not_after": "2027-02-01", "days_left": 72}],
        "servers": [
            {
                "server": "tickets",
                "address": "127.0.0.1:9000",
                "calls": 5,
                "failed": 1,
                "last_failure": "closed",
                "last_dial_error": "",
            }
        ],
    }

    status = parse_status(answer, "x")

    assert ("link", "up since 2026-11-21T12:00:00+00:00") in status.facts
    assert ("round trip", "1.5 ms") in status.facts
    assert ("gateway ends", "2027-02-01 (72 days)") in status.facts
    assert not any(name == "last error" for name, _ in status.facts)
    assert status.servers == [("tickets", "127.0.0.1:9000", "5", "1", "closed")]


def test_files_that_were_not_taken_are_shown() -> None:
    """Whoever has just renewed a certificate learns here that it is not in use, and why."""
    answer = {"gateway": "gw1", "certificates_not_taken": {"gateway": "gw1.pem ends in the middle"}}

    facts = dict(parse_status(answer, "127.0.0.1:7421").facts)

    assert facts["new gateway files"] == "not taken: gw1.pem ends in the middle"


def test_a_worker_without_a_link_is_named_with_the_reason() -> None:
    """The link that is shown is one that is up, so what is wrong with another is told beside it."""
    rows = [
        {"worker": 0, "link": "up", "last_error": ""},
        {"worker": 1, "link": "down", "last_error": "connection refused"},
        {"worker": 2, "link": "not running"},
    ]

    facts = dict(parse_status({"gateway": "gw1", "workers": rows}, "127.0.0.1:7421").facts)

    assert facts["workers"] == "3, 1 is down (connection refused), 2 is not running"
