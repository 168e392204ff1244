"""The gateway as a process: start-up, health, the end; and the operator's commands, as typed."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import yaml
from structlog.testing import capture_logs

from sallyport.certs.errors import CertificateRefused
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.issuer import create_identity
from sallyport.config.loader import load_gateway
from sallyport.gateway.app import App, start
from sallyport.gateway.check import examine
from sallyport.gateway.roll_call import RollAnswer
from sallyport.gateway.roster import Roster
from sallyport.gateway.workers import Worker
from sallyport.processes import free_port
from tests.harness.child_process import ChildProcess, run_sallyport, sallyport_command

PIN = "sha256/" + "A" * 43 + "="


@pytest.fixture
def directory(tmp_path: Path) -> IdentityDirectory:
    """Make the identity of a tunnel with a gateway gw1."""
    return create_identity(
        tmp_path / "identity", domains=["tunnel.test"], relay="relay.test", name="gw1", now=datetime.now(UTC)
    )


@pytest.fixture
def listener() -> Generator[socket.socket, None, None]:
    """Listen where a server is said to be."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def write_config(directory: IdentityDirectory, **sections: object) -> Path:
    """Write a config whose relay is a closed port, and return its path."""
    content = {
        "tunnel": {"id": str(directory.tunnel_id()), "identity": "./identity", "name": "gw1"},
        "relay": {"address": f"127.0.0.1:{free_port()}", "pin": PIN},
        "servers": {"tickets": {"url": f"http://127.0.0.1:{free_port()}/mcp"}},
        "health": f"127.0.0.1:{free_port()}",
        "log": {"format": "json"},
        **sections,
    }
    path = directory.path.parent / "gateway.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


async def first_failure(app: App) -> None:
    """Wait until the relay was dialled in vain."""
    while not app.uplink.state.last_error:
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_it_starts_without_relay_and_servers(directory: IdentityDirectory) -> None:
    """Neither is there yet: it is not ready, says why, and keeps dialling."""
    config = load_gateway(write_config(directory))

    with anyio.fail_after(20):
        async with start(config) as app:
            await first_failure(app)
            readiness, status = app.readiness(), app.status()

    assert not readiness.ready
    assert "no connection to the relay" in readiness.reasons[0]
    assert {age.name for age in readiness.certificates} == {"root", "issuing", "gateway", "link"}
    assert status["relay"]["link"] == "down"  # type: ignore[index]
    assert json.dumps(status), "what health sends has to be JSON"


@pytest.mark.anyio
async def test_the_gateway_is_ready_when_another_worker_is(directory: IdentityDirectory) -> None:
    """Worker 0 has no link and answers for all: what the other says decides, and is asked for each time."""
    config = load_gateway(write_config(directory))
    reasons: list[str] = []
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    roster = Roster(2)
    roster.note(1, runs=True)
    other = RollAnswer(far, lambda: {"status": {}, "reasons": reasons}, loop=loop)

    with near, far, anyio.fail_after(20):
        async with start(config, Worker(count=2, wires=(near,), roster=roster)) as app:
            assert app.health_address is not None
            host, port = app.health_address
            ready = f"http://{host}:{port}/readyz"
            await first_failure(app)
            assert await anyio.to_thread.run_sync(status_of, ready) == 200
            reasons.append("no link there either")
            assert await anyio.to_thread.run_sync(status_of, ready) == 503
            other.close()
            assert await anyio.to_thread.run_sync(status_of, ready) == 503


def status_of(url: str) -> int:
    """Return the HTTP status of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.anyio
async def test_a_certificate_that_ends_soon_is_warned_of(directory: IdentityDirectory) -> None:
    """The first daily line comes at the start."""
    config = load_gateway(write_config(directory))
    later = datetime.now(UTC) + timedelta(days=80)

    with capture_logs() as lines, anyio.fail_after(20):
        async with start(config, clock=lambda: later) as app:
            await first_failure(app)

    daily = next(line for line in lines if line["event"] == "certificates")
    assert daily["days_left"]["link"] in (9, 10)
    warned = {line["certificate"] for line in lines if line["event"] == "certificate ends soon"}
    assert warned == {"gateway", "link"}


@pytest.mark.anyio
async def test_an_expired_identity_ends_the_start(directory: IdentityDirectory) -> None:
    """Nothing is dialled with a certificate that the relay would refuse."""
    config = load_gateway(write_config(directory))

    with pytest.raises(CertificateRefused):
        async with start(config, clock=lambda: datetime.now(UTC) + timedelta(days=100)):
            pass


@pytest.mark.anyio
async def test_check_finds_each_fault_and_goes_on(
    directory: IdentityDirectory, listener: socket.socket
) -> None:
    """A broken identity does not hide a server that is down, nor the one that is up."""
    port = listener.getsockname()[1]
    path = write_config(
        directory,
        servers={
            "down": {"url": f"http://127.0.0.1:{free_port()}/mcp"},
            "up": {"url": f"http://127.0.0.1:{port}/mcp"},
        },
    )
    directory.link("gw1").key.chmod(0o644)

    findings = {finding.what: finding async for finding in examine(load_gateway(path), now=datetime.now(UTC))}

    assert not findings["identity"].is_good
    assert "chmod" in findings["identity"].hint
    assert not findings["server down"].is_good
    assert findings["server up"].is_good
    assert findings[f"relay {load_gateway(path).relay.address}"].is_good


def test_check_passes(directory: IdentityDirectory, listener: socket.socket) -> None:
    """Exit status 0, a row for each thing looked at, and the same as JSON."""
    port = listener.getsockname()[1]
    path = write_config(directory, servers={"tickets": {"url": f"http://127.0.0.1:{port}/mcp"}})

    done = run_sallyport("gateway", "check", "--config", path, folder=directory.path)
    as_json = run_sallyport("gateway", "check", "--config", path, "--json", folder=directory.path)

    assert done.returncode == 0, done.stderr
    for what in ("identity", "certificates", "server tickets", f"127.0.0.1:{port} connects"):
        assert what in done.stdout
    assert all(finding["is_good"] for finding in json.loads(as_json.stdout))


def test_check_fails(directory: IdentityDirectory) -> None:
    """Exit status 1, the remedy in the table, the count behind it."""
    path = write_config(directory)

    done = run_sallyport("gateway", "check", "--config", path, folder=directory.path)

    assert done.returncode == 1
    assert "refused the connection" in done.stdout
    assert "hint: " in done.stdout
    assert "error: 1 check failed" in done.stderr


def test_run_refuses_the_identity_of_another_tunnel(directory: IdentityDirectory) -> None:
    """One line and a hint, exit status 1, no traceback."""
    stranger = "tnl_" + "a" * 32
    path = write_config(directory, tunnel={"id": stranger, "identity": "./identity", "name": "gw1"})

    done = run_sallyport("gateway", "run", "--config", path, folder=directory.path)

    assert done.returncode == 1
    assert f"error: the config names tunnel {stranger}, but" in done.stderr
    assert "hint: set tunnel.id to" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_two_servers_with_one_name(directory: IdentityDirectory) -> None:
    """Two keys that become the same DNS label."""
    servers = {key: {"url": "http://127.0.0.1:9000/mcp"} for key in ("My Wiki", "my-wiki")}
    path = write_config(directory, servers=servers)

    done = run_sallyport("gateway", "run", "--config", path, folder=directory.path)

    assert done.returncode == 1
    assert "'my-wiki'" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_a_health_port_in_use(directory: IdentityDirectory, listener: socket.socket) -> None:
    """The port is named, and nothing else is begun."""
    port = listener.getsockname()[1]
    path = write_config(directory, health=f"127.0.0.1:{port}")

    done = run_sallyport("gateway", "run", "--config", path, folder=directory.path)

    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variable", ["SALLYPORT_CARRIER", "SALLYPORT_LOOP"])
def test_run_refuses_a_variable_that_names_nothing(directory: IdentityDirectory, variable: str) -> None:
    """It does not start on something else instead, and says what there is."""
    path = write_config(directory)

    done = run_sallyport(
        "gateway", "run", "--config", path, folder=directory.path, environment={variable: "fast"}
    )

    assert done.returncode == 1
    assert f"error: there is no {variable}=fast" in done.stderr
    assert "hint: it is " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_run_status_and_stop(directory: IdentityDirectory, loop: str) -> None:
    """While it runs it tells how it stands; SIGTERM ends it with status 0, at once when nothing is open."""
    path = write_config(directory)
    health = load_gateway(path).health
    command = sallyport_command("gateway", "run", "--config", path)
    environment = {"SALLYPORT_LOOP": loop}
    with ChildProcess("gateway", command, folder=directory.path.parent, environment=environment) as gateway:
        gateway.wait_for("no link")
        with urllib.request.urlopen(f"http://{health}/healthz", timeout=10) as answer:
            assert answer.status == 200
        shown = run_sallyport("gateway", "status", "--config", path, folder=directory.path)
        as_json = run_sallyport("gateway", "status", "--config", path, "--json", folder=directory.path)
        assert gateway.stop() == 0

    assert shown.returncode == 0, shown.stderr
    assert "gw1" in shown.stdout
    assert "down since" in shown.stdout
    assert "no connection to the relay" in shown.stdout
    status = json.loads(as_json.stdout)
    assert status["tunnel"] == str(directory.tunnel_id())
    assert status["servers"][0]["server"] == "tickets"


def test_status_when_nothing_runs(directory: IdentityDirectory) -> None:
    """It says where it asked and how to start one."""
    path = write_config(directory)

    done = run_sallyport("gateway", "status", "--config", path, folder=directory.path)

    assert done.returncode == 1
    assert "error: no gateway answers at 127.0.0.1:" in done.stderr
    assert "sallyport gateway run" in done.stderr


def test_status_without_a_health_address(directory: IdentityDirectory) -> None:
    """It says what to add to the config."""
    path = write_config(directory, health=None)

    done = run_sallyport("gateway", "status", "--config", path, folder=directory.path)

    assert done.returncode == 1
    assert "health: 127.0.0.1:7421" in done.stderr


def test_keys_that_are_not_made_yet_are_no_fault(
    directory: IdentityDirectory, listener: socket.socket
) -> None:
    """They are turned on first; ``check`` says what comes next, and the list is empty."""
    port = listener.getsockname()[1]
    servers = {"tickets": {"url": f"http://127.0.0.1:{port}/mcp"}}
    path = write_config(directory, servers=servers, keys=True)

    checked = run_sallyport("gateway", "check", "--config", path, folder=directory.path)
    listed = run_sallyport("gateway", "keys", "list", "--config", path, "--json", folder=directory.path)

    assert checked.returncode == 0, checked.stdout
    assert "no key yet" in checked.stdout
    assert "hint: make a first key: sallyport gateway keys add NAME" in checked.stdout
    assert (listed.returncode, json.loads(listed.stdout)) == (0, [])
    assert "no key yet" in listed.stderr
