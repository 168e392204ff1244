"""The commands, as a user types them: what they print, and how they end."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sallyport.certs import cli_renewal
from sallyport.certs.authority import make_relay_authority
from sallyport.certs.cli import app
from sallyport.certs.contexts import spki_pin
from sallyport.certs.errors import CertificateError, CertificateRefused, FileRefused, IssuingRefused
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.names import Role
from sallyport.certs.pem import encode_certificates
from sallyport.certs.rotation import Rotated, rotate
from sallyport.certs.storage import write_public
from tests.certs.certificate_kit import NOW, Tunnel, cn, damage_key, drafts, uri

INIT = ("init", "--domain", "tunnel.example.com", "--relay", "relay.example.com", "--name", "gw1")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, status: int = 0) -> str:
    """Run a command; return what it printed."""
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, CertificateError):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


def test_init_says_what_to_do_next() -> None:
    """The ID, the DNS records and the next commands are on the screen."""
    output = run(*INIT)

    tunnel = IdentityDirectory(Path("identity")).tunnel_id()
    assert f"made identity for the tunnel {tunnel}\n" in output
    assert "  *.tunnel.example.com  ->  relay.example.com\n" in output
    assert "  *.link.tunnel.example.com  ->  relay.example.com\n" in output
    for command in (
        "sallyport relay tunnel add root.pem",
        "sallyport gateway run",
        "certs issue caller NAME",
    ):
        assert command in output


def test_init_in_json_is_one_value() -> None:
    """A script learns the ID without reading prose."""
    made = json.loads(run(*INIT, "--json"))

    assert made == {
        "tunnel_id": str(IdentityDirectory(Path("identity")).tunnel_id()),
        "directory": "identity",
        "domains": ["tunnel.example.com"],
        "relay": "relay.example.com:443",
        "gateway": "gw1",
    }


def test_init_names_the_gateway_after_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name, the first gateway is this host."""
    monkeypatch.setattr("socket.gethostname", lambda: "Host-7.corp.example.com")
    run(*INIT[:-2])

    assert Path("identity/gateway/host-7.pem").exists()


def test_init_again_with_another_domain_keeps_the_id() -> None:
    """The root is issued anew, and what follows from that is said."""
    run(*INIT)
    before = IdentityDirectory(Path("identity")).tunnel_id()

    output = run("init", "--domain", "b.example.org", "--domain", "tunnel.example.com")

    directory = IdentityDirectory(Path("identity"))
    assert directory.tunnel_id() == before
    assert directory.domains() == ("tunnel.example.com", "b.example.org")
    assert "which keeps its ID" in output
    assert "  *.b.example.org  ->  relay.example.com\n" in output
    # Each step works with what the steps before it have left: test_issuer.py.
    steps = [
        "1. the relay registers",
        "certs issue caller NAME --replace\n",
        "certs issue caller NAME --replace --domain b.example.org",
        "certs issue gateway NAME --replace",
    ]
    places = [output.index(step) for step in steps]
    assert places == sorted(places)


def test_init_again_may_move_the_relay() -> None:
    """A new domain may come with another relay; the JSON says how things are now."""
    run(*INIT)

    made = json.loads(run("init", "--domain", "b.example.org", "--relay", "[::1]:444", "--json"))

    assert made["relay"] == "[::1]:444"
    assert made["domains"] == ["tunnel.example.com", "b.example.org"]


def test_init_again_without_a_new_domain_changes_nothing() -> None:
    """A second init is refused, even with another relay."""
    run(*INIT)
    before = {path: path.read_bytes() for path in Path("identity").rglob("*") if path.is_file()}

    with pytest.raises(IssuingRefused, match="nothing was changed"):
        run("init", "--domain", "tunnel.example.com", "--relay", "other.example.com")

    assert before == {path: path.read_bytes() for path in Path("identity").rglob("*") if path.is_file()}


def test_init_needs_a_relay() -> None:
    """The first init cannot guess it."""
    with pytest.raises(IssuingRefused, match="must know its relay"):
        run("init", "--domain", "tunnel.example.com")

    assert not Path("identity").exists()


@pytest.mark.parametrize("kind", ["gateway", "link", "caller"])
def test_issue_says_what_it_wrote(kind: str) -> None:
    """The file, what it is, and until when."""
    run(*INIT)

    output = run("issue", kind, "two")

    assert re.search(rf"^wrote identity/{kind}s?/two\S*.pem: {kind} certificate two, valid until 20", output)
    assert ("private key" in output) == (kind == "caller")


def test_issue_in_json_describes_the_certificate() -> None:
    """A script learns the file and the expiry."""
    run(*INIT)

    issued = json.loads(run("issue", "caller", "alice", "--json"))

    assert issued["file"] == "identity/callers/alice.bundle.pem"
    assert (issued["role"], issued["name"], issued["days_left"]) == ("caller", "alice", 89)


def test_another_directory_may_be_named() -> None:
    """``--dir`` is where everything happens."""
    run(*INIT, "--dir", "there/id")
    run("issue", "link", "two", "--dir", "there/id")

    assert Path("there/id/link/two.key").exists()
    assert not Path("identity").exists()
    assert "bad" not in run("check", "there/id")


def test_show_tells_all_about_a_root() -> None:
    """ID, domains, DNS records, constraints, days left, fingerprint and pin."""
    run(*INIT)

    shown = json.loads(run("show", "identity/root.pem", "--json"))

    assert len(shown) == 1
    directory = IdentityDirectory(Path("identity"))
    tunnel = str(directory.tunnel_id())
    assert shown[0]["tunnel_id"] == tunnel
    assert shown[0]["domains"] == ["tunnel.example.com"]
    assert shown[0]["dns_records"] == ["*.tunnel.example.com", "*.link.tunnel.example.com"]
    assert shown[0]["permitted"] == [f"DNS {tunnel[4:]}.tunnel.example.com"]
    assert shown[0]["excluded"] == ["IP 0.0.0.0/0", "IP ::/0"]
    assert shown[0]["pin"] == spki_pin(directory.root_certificate())
    assert shown[0]["authority"] == "CA, path length 3"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", shown[0]["fingerprint"])
    table = run("show", "identity/root.pem")
    assert f"tunnel id       {tunnel}\n" in table
    assert "\n                *.link.tunnel.example.com\n" in table


def test_show_tells_the_certificates_of_a_bundle_apart() -> None:
    """Leaf, issuing CA and root, in their order; of the key, nothing."""
    run(*INIT)
    run("issue", "caller", "alice")

    shown = json.loads(run("show", "identity/callers/alice.bundle.pem", "--json"))

    assert [entry["certificate"].split(" tnl_")[0] for entry in shown] == [
        "caller certificate alice",
        "issuing CA callers",
        "root certificate",
    ]
    assert shown[0]["uris"] == [f"sallyport://{shown[2]['tunnel_id'][4:]}/caller/alice"]
    assert (shown[0]["usage"], shown[0]["status"]) == ("clientAuth", "valid")
    assert "PRIVATE" not in run("show", "identity/callers/alice.bundle.pem")


def test_show_works_on_a_relays_certificate_and_on_a_cross() -> None:
    """Certificates that are no leaf of ours are described as well."""
    relay = make_relay_authority(["*.link.tunnel.test", "192.0.2.1"], NOW).certificate
    write_public(Path("some.pem"), encode_certificates([relay, *Tunnel.make().succeeded().above]))

    shown = json.loads(run("show", "some.pem", "--json"))

    assert shown[0]["dns_names"] == ["*.link.tunnel.test"]
    assert shown[0]["other_names"] == ["192.0.2.1"]
    assert shown[0]["pin"] == spki_pin(relay)
    assert shown[1]["certificate"].startswith("cross certificate of the successor root tnl_")


def test_show_cannot_be_made_to_speak_to_the_terminal() -> None:
    """Control characters in somebody's certificate stay characters."""
    drawn = drafts(Role.CALLER)
    drawn.leaf.subject, drawn.leaf.names = cn("\x1b]0;owned\x07"), [uri("x:\x1b[31m")]
    write_public(Path("some.pem"), encode_certificates(drawn.chain()[:1]))

    assert "\x1b" not in run("show", "some.pem")


def test_show_says_what_is_not_a_certificate() -> None:
    """A key is not shown, and neither is a file that is not there."""
    run(*INIT)

    with pytest.raises(FileRefused, match="holds no certificate"):
        run("show", "identity/root.key")
    with pytest.raises(FileRefused, match="does not exist"):
        run("show", "nowhere.pem")


def test_check_ends_well_on_a_good_identity() -> None:
    """One line for each file, all of them ok."""
    run(*INIT)

    lines = run("check", "identity").splitlines()

    assert len(lines) == 9
    assert all(line.startswith("ok    ") for line in lines)


def test_check_exits_1_and_says_what_to_do() -> None:
    """The bad line names the file, the fault and the remedy, beside the good ones."""
    run(*INIT)
    Path("identity/link/gw1.key").chmod(0o644)

    lines = run("check", "identity", status=1).splitlines()

    bad = [line for line in lines if not line.startswith("ok    ")]
    assert len(lines) == 9
    assert len(bad) == 1
    assert bad[0].startswith("bad   link/gw1.pem")
    assert "has mode 0644" in bad[0]
    assert bad[0].endswith("run: chmod 600 identity/link/gw1.key")


def test_check_in_json_lists_every_finding() -> None:
    """A script finds the rule that failed."""
    run(*INIT)
    other = Tunnel.make().gateways.certificate
    write_public(Path("identity/gateways.pem"), encode_certificates([other]))

    findings = {f["path"]: f for f in json.loads(run("check", "identity", "--json", status=1))}

    assert findings["root.pem"]["ok"]
    assert findings["gateways.pem"]["rule"] == "chain"
    assert findings["gateways.pem"]["hint"]


def test_check_takes_its_folder_as_its_sisters_do() -> None:
    """``--dir`` as well as the bare name; both are one too many."""
    run(*INIT, "--dir", "there")

    assert run("check", "--dir", "there") == run("check", "there")
    run("check", "there", "--dir", "there", status=2)


@pytest.mark.parametrize("command", [("renew", "--before", "99d"), ("rotate", "leaf")])
def test_what_cannot_be_replaced_is_said_behind_what_was(command: tuple[str, ...]) -> None:
    """Status 1 for whoever runs it by a timer; in JSON nothing that was replaced is left out."""
    run(*INIT)
    run("issue", "link", "gw2")
    Path("identity/link/gw1.pem").unlink()
    Path("identity/link/gw1.pem").mkdir()

    lines = run(*command, status=1).splitlines()
    told = json.loads(run(*command, "--json", status=1))

    assert sum(line.startswith("wrote ") for line in lines) == 2
    (failed,) = [line for line in lines if "identity/link/gw1.pem" in line]
    assert "is a directory" in failed
    assert [each.get("failed", False) for each in told] == [False, True, False]


def test_json_is_printed_also_when_it_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was replaced before that is on the disk, and must be told."""
    run(*INIT)

    def one_and_an_error(directory: IdentityDirectory, *, now: datetime) -> Iterator[Rotated]:
        yield rotate(directory, Role.GATEWAY, "gw1", now=now)
        raise FileRefused(directory.path, "has gone")

    monkeypatch.setattr(cli_renewal, "rotate_all", one_and_an_error)
    result = CliRunner().invoke(app, ("rotate", "leaf", "--json"))

    assert isinstance(result.exception, FileRefused)
    assert [Path(each["file"]).name for each in json.loads(result.output)] == ["gw1.pem"]


def test_status_and_renew_pass_by_a_damaged_bundle() -> None:
    """It is listed with the reason, and hides nothing."""
    run(*INIT)
    run("issue", "caller", "alice")
    damage_key(Path("identity/callers/alice.bundle.pem"))
    Path("identity/gateway/gw1 copy.pem").touch()

    status = run("status").splitlines()
    renewed = run("renew", "--before", "99d", status=1)

    assert any(line.startswith("gateway") and "gw1" in line for line in status)
    assert any("cannot be read: " in line and "key cannot be read" in line for line in status)
    assert any(line.startswith("stray") and "gw1 copy.pem" in line for line in status)
    assert renewed.count("wrote ") == 2


def test_a_refusal_rises_to_the_command_line_whole() -> None:
    """The commands catch nothing: ``sallyport.cli`` prints the error and its hint."""
    run(*INIT)
    Path("identity/callers.key").write_bytes(Path("identity/gateways.key").read_bytes())

    with pytest.raises(CertificateRefused) as refused:
        run("issue", "caller", "alice")

    assert refused.value.hint
