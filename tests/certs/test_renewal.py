"""When a certificate is due, and the commands that say so and do it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sallyport.certs.errors import FileRefused, IssuingRefused
from sallyport.certs.facts import read_facts
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.issuer import create_identity, issue_caller
from sallyport.certs.renewal import Step, outlook, parse_span
from tests.certs.certificate_kit import DAY, DOMAIN, NOW
from tests.certs.test_cli import run


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IdentityDirectory:
    """Make an identity where the commands look for one."""
    monkeypatch.chdir(tmp_path)
    made = create_identity(
        Path("identity"), domains=[DOMAIN], relay="relay.test:443", name="gw1", now=datetime.now(UTC)
    )
    issue_caller(made, "alice", domain=None, now=datetime.now(UTC))
    return made


@pytest.mark.parametrize(
    ("days", "is_due", "says"),
    [
        (59, False, "sallyport certs renew, from "),
        (61, True, "due: sallyport certs renew"),
        (91, True, "expired: sallyport certs rotate leaf gateway gw1"),
    ],
)
def test_a_leaf_is_due_thirty_days_before_its_end(
    identity: IdentityDirectory, days: int, is_due: bool, says: str
) -> None:
    """Which is two thirds of its life; an expired one is named in the command."""
    facts = read_facts(identity.gateway("gw1").load_presented()[0])

    ahead = outlook(facts, now=NOW + days * DAY)

    assert (ahead.step, ahead.is_due) == (Step.RENEW, is_due)
    assert str(ahead).startswith(says)


@pytest.mark.parametrize(("days", "is_due"), [(242, False), (245, True), (366, True)])
def test_an_issuing_ca_is_due_at_two_thirds(identity: IdentityDirectory, days: int, is_due: bool) -> None:
    """Identity §2: with a third of its life left."""
    facts = read_facts(identity.issuing("callers").load_presented()[0])

    ahead = outlook(facts, now=NOW + days * DAY)

    assert (ahead.step, ahead.is_due, ahead.command) == (Step.REPLACE_ISSUER, is_due, "")


def test_a_root_gets_a_successor(identity: IdentityDirectory) -> None:
    """In years."""
    ahead = outlook(read_facts(identity.root_certificate()), now=NOW)

    assert (ahead.step, ahead.is_due) == (Step.SUCCEED, False)
    assert ahead.due > NOW + 2000 * DAY


@pytest.mark.parametrize(
    ("text", "span"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("0d", timedelta())]
)
def test_spans_of_time(text: str, span: timedelta) -> None:
    """Days and hours."""
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 d", "30D", "1w", "99999d", "٣d"])
def test_no_spans_of_time(text: str) -> None:
    """A slip is refused with an example."""
    with pytest.raises(IssuingRefused, match="no span of time") as refused:
        parse_span(text)

    assert "30d" in refused.value.hint


def test_status_lists_every_certificate(identity: IdentityDirectory) -> None:
    """One row each: kind, name, serial, end, days left and what comes next."""
    lines = run("status").splitlines()

    assert lines[0].split() == ["KIND", "NAME", "SERIAL", "NOT", "AFTER", "DAYS", "NEXT"]
    assert [line.split()[0] for line in lines[1:]] == [
        *("root", "issuing", "issuing", "gateway", "link", "caller"),
    ]
    gateway = next(line for line in lines if line.startswith("gateway"))
    facts = read_facts(identity.gateway("gw1").load_presented()[0])
    assert facts.serial in gateway
    assert f"{facts.not_after:%Y-%m-%d %H:%M} UTC" in gateway
    assert "sallyport certs renew, from " in gateway


def test_status_in_json(identity: IdentityDirectory) -> None:
    """Programs read whole serials and ISO times, and decide by words that do not change."""
    rows = json.loads(run("status", "--json"))

    link = next(row for row in rows if row["kind"] == "link")
    facts = read_facts(identity.link("gw1").load_presented()[0])
    assert link == {
        "kind": "link",
        "name": "gw1",
        "file": "identity/link/gw1.pem",
        "serial": facts.full_serial,
        "not_after": facts.not_after.isoformat(),
        "days_left": 89,
        "next": "renew",
        "due": (facts.not_after - timedelta(days=30)).isoformat(),
        "is_due": False,
        "command": "sallyport certs renew",
    }


def test_status_shows_what_cannot_be_read(identity: IdentityDirectory) -> None:
    """A broken file is a row, and the others are there."""
    identity.link("gw1").certificate.write_text("half a certificate")
    identity.issuing("callers").certificate.unlink()

    rows = {(row["kind"], row["name"]): row for row in json.loads(run("status", "--json"))}

    assert "is not PEM" in rows["link", "gw1"]["problem"]
    assert ("issuing", "callers") not in rows, "a host with leaves only has no issuing CA"
    assert "cannot be read: " in run("status")


def test_status_needs_an_identity(identity: IdentityDirectory) -> None:
    """Another folder is named, with the command that makes one."""
    with pytest.raises(FileRefused, match=r"holds no root\.pem"):
        run("status", "--dir", "elsewhere")


def test_rotate_says_what_it_wrote(identity: IdentityDirectory) -> None:
    """Both leaves of the gateway, each with its serial and the old one, and that nobody has to restart."""
    old = read_facts(identity.gateway("gw1").load_presented()[0]).serial

    lines = run("rotate", "leaf").splitlines()

    new = read_facts(identity.gateway("gw1").load_presented()[0]).serial
    assert lines[0].startswith(f"wrote identity/gateway/gw1.pem: gateway certificate gw1, serial {new}, ")
    assert lines[0].endswith(f"(was {old})")
    assert lines[1].startswith("wrote identity/link/gw1.pem: ")
    assert "no connection is cut" in lines[2]
    assert len(lines) == 3


def test_rotating_a_caller_says_that_it_must_be_brought(identity: IdentityDirectory) -> None:
    """The bundle lies here, and its holder is elsewhere."""
    output = run("rotate", "leaf", "caller", "alice")

    assert "identity/callers/alice.bundle.pem" in output
    assert "bring each bundle to its caller" in output
    assert "no connection is cut" not in output


def test_rotate_in_json(identity: IdentityDirectory) -> None:
    """A script learns both serials."""
    (done,) = json.loads(run("rotate", "leaf", "link", "gw1", "--json"))

    assert done["serial"] == read_facts(identity.link("gw1").load_presented()[0]).full_serial
    assert done["was"] != done["serial"]


def test_a_role_needs_a_name(identity: IdentityDirectory) -> None:
    """Half an argument rotates nothing."""
    before = identity.link("gw1").certificate.read_bytes()

    assert "name one" in run("rotate", "leaf", "link", status=2)
    assert identity.link("gw1").certificate.read_bytes() == before


def test_renew_does_what_is_due(identity: IdentityDirectory) -> None:
    """Nothing today; everything, for whoever wants a hundred days ahead."""
    assert run("renew") == "nothing to do: nothing ends within 30d\n"
    assert json.loads(run("renew", "--json")) == []

    assert run("renew", "--before", "100d").count("wrote ") == 3
