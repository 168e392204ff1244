"""The operator's commands; ``relay run`` as a real process."""

import contextlib
import io
import json
import os
import signal
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from sallyport.certs.relay_trust import spki_pin
from sallyport.cli import main
from sallyport.config.loader import load_relay
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess, run_sallyport, sallyport_command
from tests.relay.relay_world import DOMAIN, TestTunnel, make_tunnel


def command(*arguments: str | Path, folder: Path) -> tuple[int, str, str]:
    """Run ``sallyport relay …`` in this process and return its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["relay", *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


def relay(*arguments: str | Path, folder: Path) -> str:
    """Run a command that must succeed, and return what it printed."""
    status, printed, complaint = command(*arguments, folder=folder)
    assert status == 0, printed + complaint
    return printed


def refused(*arguments: str | Path, folder: Path, status: int = 1) -> str:
    """Run a command that must fail without a traceback, and return its complaint."""
    found, printed, complaint = command(*arguments, folder=folder)
    assert found == status, printed + complaint
    assert "Traceback" not in complaint
    return complaint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a fresh relay in it, on free ports."""
    relay("init", "--domain", DOMAIN, "--host", "127.0.0.1", folder=tmp_path)
    config = yaml.safe_load((tmp_path / "relay.yaml").read_text())
    config |= {"listen": f"127.0.0.1:{free_port()}", "health": f"127.0.0.1:{free_port()}"}
    (tmp_path / "relay.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def running(folder: Path) -> ChildProcess:
    """Start ``relay run``."""
    return ChildProcess("relay", sallyport_command("relay", "run"), folder=folder)


# init


def test_init_makes_what_run_needs(tmp_path: Path) -> None:
    """Four files, the key for its owner only, and a configuration that loads."""
    printed = relay(
        *("init", "--domain", "Tunnel.Test", "--listen", "[::]:8443", "--dir", "made"),
        *("--host", "relay.example.com", "--host", "192.0.2.1"),
        folder=tmp_path,
    )
    made = tmp_path / "made"
    assert sorted(path.name for path in made.iterdir()) == [
        "relay-ca.pem",
        "relay.key",
        "relay.pem",
        "relay.yaml",
    ]
    assert stat.S_IMODE((made / "relay.key").stat().st_mode) == 0o600
    config = load_relay(made / "relay.yaml")
    assert (config.domain, str(config.listen)) == (DOMAIN, "[::]:8443")
    certificate = x509.load_pem_x509_certificate((made / "relay.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"*.link.{DOMAIN}", "relay.example.com"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    for told in (
        spki_pin(certificate),
        f"*.{DOMAIN}",
        f"*.link.{DOMAIN}",
        "relay.example.com:8443",
        "tunnel add",
    ):
        assert told in printed
    ssl.create_default_context(cafile=str(made / "relay-ca.pem"))


def test_init_overwrites_nothing(folder: Path) -> None:
    """A second init would make a new key, and break every gateway's pin."""
    before = {
        path: path.read_bytes() for path in folder.iterdir() if path.suffix in (".pem", ".key", ".yaml")
    }
    complaint = refused("init", "--domain", DOMAIN, folder=folder)
    assert "exists already" in complaint
    assert "hint: " in complaint
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--domain", "not a domain"], 1, "tunnel domain 'not a domain'"),
        (["--domain", "192.0.2.1"], 1, "looks like an IP address"),
        (["--domain", DOMAIN, "--listen", "443"], 2, "--listen"),
        (["--domain", DOMAIN, "--listen", "0.0.0.0:99999"], 2, "99999"),
        (["--domain", DOMAIN, "--host", "*.example.com"], 1, "'*.example.com'"),
        ([], 2, "--domain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_init_names_what_is_wrong(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    """Nothing is made from half-understood arguments."""
    assert said in refused("init", *arguments, folder=tmp_path, status=status)
    assert [path.name for path in tmp_path.iterdir()] == []


# tunnel


def test_tunnels_are_added_and_listed(folder: Path, tunnel: TestTunnel) -> None:
    """What was added is listed for people and for programs, and adding it again is no error."""
    assert "no tunnel is registered" in relay("tunnel", "list", folder=folder)
    assert json.loads(relay("tunnel", "list", "--json", folder=folder)) == []
    root = tunnel.identity.root_path
    assert tunnel.id in relay("tunnel", "add", root, "--name", "acme", folder=folder)
    assert "already" in relay("tunnel", "add", root, folder=folder)
    listed = relay("tunnel", "list", folder=folder)
    assert tunnel.id in listed
    assert "acme" in listed
    (row,) = json.loads(relay("tunnel", "list", "--json", folder=folder))
    assert (row["id"], row["name"], row["state"]) == (tunnel.id, "acme", "active")


def test_a_tunnel_is_shown_without_a_running_relay(folder: Path, tunnel: TestTunnel) -> None:
    """The links are unknown then, which is not the same as none."""
    relay("tunnel", "add", tunnel.identity.root_path, folder=folder)
    assert "links: unknown" in relay("tunnel", "show", tunnel.id, folder=folder)
    shown = json.loads(relay("tunnel", "show", tunnel.id, "--json", folder=folder))
    assert shown["links"] is None
    assert shown["root_not_after"] > shown["created"]


def test_a_name_is_text_and_nothing_more(folder: Path, tunnel: TestTunnel) -> None:
    """Neither markup nor escape sequences reach a terminal."""
    root = tunnel.identity.root_path
    relay("tunnel", "add", root, "--name", "[red]acme[/red]", folder=folder)
    assert "[red]acme[/red]" in relay("tunnel", "list", folder=folder)
    assert "printable" in refused("tunnel", "add", root, "--name", "a\x1b[2Jb", folder=folder, status=2)


def test_what_is_no_root_is_not_added(folder: Path, tunnel: TestTunnel, tmp_path: Path) -> None:
    """The wrong file, a missing one and another domain's root are each named."""
    assert "does not exist" in refused("tunnel", "add", "nowhere.pem", folder=folder)
    leaf = tunnel.identity.link("gw1").certificate
    assert "is not registered" in refused("tunnel", "add", leaf, folder=folder)
    other = make_tunnel(tmp_path / "elsewhere", domain="elsewhere.test")
    complaint = refused("tunnel", "add", other.identity.root_path, folder=folder)
    assert "elsewhere.test" in complaint
    assert f"--domain {DOMAIN}" in complaint
    assert json.loads(relay("tunnel", "list", "--json", folder=folder)) == []


def test_an_id_that_is_none_or_unknown_is_told(folder: Path, tunnel: TestTunnel) -> None:
    """A typing error and a tunnel that is not there are told apart."""
    assert "is not tnl_" in refused("tunnel", "show", "tnl_x", folder=folder)
    assert f"no tunnel {tunnel.id} is registered" in refused("tunnel", "show", tunnel.id, folder=folder)


def test_a_missing_configuration_is_told(tmp_path: Path) -> None:
    """Every command says which file it wanted."""
    for arguments in (["run"], ["tunnel", "list"]):
        assert "nowhere.yaml" in refused(*arguments, "--config", "nowhere.yaml", folder=tmp_path)


# run


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_in_order(folder: Path, signum: signal.Signals) -> None:
    """It says where it listens, and a signal ends it with exit status 0."""
    with running(folder) as process:
        line = process.wait_for("listening")
        assert line["address"] == str(load_relay(folder / "relay.yaml").listen)
        os.kill(process.pid, signum)
        assert process.wait() == 0
        assert process.events("stopped")


def test_a_port_in_use_is_told(folder: Path) -> None:
    """The second relay ends with exit status 1 and names the port."""
    with running(folder) as process:
        process.wait_for("listening")
        complaint = run_sallyport("relay", "run", folder=folder).stderr
    assert "the port is in use" in complaint
    assert str(load_relay(folder / "relay.yaml").listen) in complaint


def test_a_health_port_in_use_is_told(folder: Path) -> None:
    """The health listener's address is told as such."""
    config = yaml.safe_load((folder / "relay.yaml").read_text())
    with running(folder) as process:
        process.wait_for("listening")
        config["listen"] = f"127.0.0.1:{free_port()}"
        (folder / "second.yaml").write_text(yaml.safe_dump(config))
        complaint = run_sallyport("relay", "run", "--config", "second.yaml", folder=folder).stderr
    assert "health" in complaint
    assert "the port is in use" in complaint


@pytest.mark.parametrize("variable", ["SALLYPORT_CARRIER", "SALLYPORT_LOOP"])
def test_a_variable_that_names_nothing_is_told(folder: Path, variable: str) -> None:
    """The relay does not start on something else instead, and says what there is."""
    done = run_sallyport("relay", "run", folder=folder, environment={variable: "fast"})
    assert done.returncode == 1
    assert f"error: there is no {variable}=fast" in done.stderr
    assert "hint: it is " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_running_relay_sees_a_new_tunnel(folder: Path, tunnel: TestTunnel) -> None:
    """Adding it is enough; within two seconds it is served, and ``show`` asks the running relay."""
    with running(folder) as process:
        process.wait_for("listening")
        relay("tunnel", "add", tunnel.identity.root_path, folder=folder)
        process.wait_for("tunnel changed", tunnel=tunnel.id, within=5)
        assert "links: none" in relay("tunnel", "show", tunnel.id, folder=folder)
        assert json.loads(relay("tunnel", "show", tunnel.id, "--json", folder=folder))["links"] == []


# The end of a tunnel


class Terminal(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


def state(folder: Path) -> str:
    """Return the state of the only tunnel."""
    (row,) = json.loads(relay("tunnel", "list", "--json", folder=folder))
    return str(row["state"])


@pytest.fixture
def registered(folder: Path, tunnel: TestTunnel) -> Path:
    """The folder of a relay with one tunnel, acme."""
    relay("tunnel", "add", tunnel.identity.root_path, "--name", "acme", folder=folder)
    return folder


def test_a_tunnel_is_disabled_and_enabled(registered: Path, tunnel: TestTunnel) -> None:
    """Each says what it means, and the second time that there is nothing to do."""
    assert "cuts its links" in relay("tunnel", "disable", tunnel.id, folder=registered)
    assert state(registered) == "disabled"
    assert "is disabled already" in relay("tunnel", "disable", tunnel.id, folder=registered)
    assert "is enabled" in relay("tunnel", "enable", tunnel.id, folder=registered)
    assert state(registered) == "active"
    assert "is active already" in relay("tunnel", "enable", tunnel.id, folder=registered)


def test_an_archived_tunnel_is_archived_for_good(registered: Path, tunnel: TestTunnel) -> None:
    """Neither enabling it nor adding its root again brings it back."""
    assert "for good" in relay("tunnel", "archive", tunnel.id, "--yes", folder=registered)
    for arguments in (["enable", tunnel.id], ["disable", tunnel.id], ["add", tunnel.identity.root_path]):
        complaint = refused("tunnel", *arguments, folder=registered)
        assert f"{tunnel.id} is archived for good" in complaint
        assert "certs init" in complaint
    assert "is archived already" in relay("tunnel", "archive", tunnel.id, folder=registered)
    assert state(registered) == "archived"


def test_archiving_asks_on_a_terminal(
    registered: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question names the tunnel and says that there is no way back; only a yes goes on."""
    for answer in ("n\n", "\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        complaint = refused("tunnel", "archive", tunnel.id, folder=registered)
        assert f"archiving {tunnel.id} (acme) cuts its links and streams and cannot be undone" in complaint
        assert "nothing was done" in complaint
        assert state(registered) == "active"
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert "is archived for good" in relay("tunnel", "archive", tunnel.id, folder=registered)


def test_archiving_without_a_terminal_needs_yes(
    registered: Path, tunnel: TestTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that did not say it has not meant it."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "--yes" in refused("tunnel", "archive", tunnel.id, folder=registered)
    assert state(registered) == "active"


@pytest.mark.parametrize("verb", ["archive", "disable", "enable"])
def test_an_unknown_tunnel_is_told(folder: Path, tunnel: TestTunnel, verb: str) -> None:
    """A wrong ID is told before anything is asked."""
    complaint = refused("tunnel", verb, tunnel.id, folder=folder)
    assert f"no tunnel {tunnel.id} is registered" in complaint
