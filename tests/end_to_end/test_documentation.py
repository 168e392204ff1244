"""
What the documentation says about other programs and about the relay's eyes is what really happens.
"""

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.end_to_end.test_caller_certificates import caller_valid
from tests.harness.child_process import CHECKOUT
from tests.harness.mcp_wire import ModernClient, result_text
from tests.harness.outside_clients import Attempt, Target, call_curl, call_node, call_python
from tests.harness.plain_socket import alert_record, open_and_send
from tests.harness.product import LOOPBACK, Product, Tunnel
from tests.harness.stage import Stage

TROUBLESHOOTING = CHECKOUT / "docs" / "troubleshooting.md"
THREAT_MODEL = CHECKOUT / "docs" / "threat-model.md"
PROGRAMS = ("curl", "Node", "Python")

# What structlog adds to every line.
_OF_EVERY_LINE = {"event", "level", "time", "area"}


def _rows(file: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    section = file.read_text().partition(f"\n## {heading}\n")[2]
    lines = section[section.index("| --- |") :].splitlines()[1:]
    table = lines[: next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def _documented_words(heading: str, alert: int, program: str) -> list[str]:
    """Return the words in code marks that a program prints for an alert, by the documentation."""
    cells = next(row for row in _rows(TROUBLESHOOTING, heading) if row[0].split()[0] == str(alert))
    return re.findall(r"`([^`]+)`", cells[2 + PROGRAMS.index(program)])


def _call(program: str, target: Target) -> Attempt:
    calls = {"curl": call_curl, "Node": call_node, "Python": call_python}
    if program != "Python" and shutil.which(program.lower()) is None:
        pytest.skip(f"{program} is not installed")
    return calls[program](target)


@pytest.fixture
def alerting(request: pytest.FixtureRequest) -> Iterator[int]:
    """Answer one connection as the relay does, by an alert and nothing else; gives the port."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        answering = threading.Thread(target=_answer, args=(listener, request.param), daemon=True)
        answering.start()
        yield listener.getsockname()[1]
        answering.join(10)


def _answer(listener: socket.socket, alert: int) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 14)
        connection.sendall(alert_record(alert))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("alerting", [112, 80, 40], indirect=True)
def test_a_program_says_of_the_relays_alert_what_is_documented(
    request: pytest.FixtureRequest, tunnel: Tunnel, alerting: int, program: str
) -> None:
    """curl, Node and Python report the three alerts distinctly, in the documented words."""
    alert = request.node.callspec.params["alerting"]
    target = Target(tunnel.host("tickets"), alerting, tunnel.identity.root_path, tunnel.bundle())
    said = _call(program, target).said
    for words in _documented_words("Alerts of the relay", alert, program):
        assert words in said


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("alert", [116, 45, 48, 42, 43])
def test_a_program_says_of_the_gateways_alert_what_is_documented(
    stage: Stage, tmp_path: Path, alert: int, program: str
) -> None:
    """The same for what the gateway says of a caller's certificate."""
    target = Target(
        stage.tunnel.host("tickets"),
        stage.product.relay_port,
        stage.tunnel.identity.root_path,
        _bundle_for(alert, stage, tmp_path),
    )
    said = _call(program, target).said
    for words in _documented_words("Alerts of the gateway", alert, program):
        assert words in said


def _bundle_for(alert: int, stage: Stage, folder: Path) -> Path | None:
    """Return a certificate that the gateway answers with this alert."""
    now, hour = datetime.now(UTC), timedelta(hours=1)
    match alert:
        case 116:
            return None
        case 45:
            return caller_valid(stage.tunnel, folder, now - 2 * hour, now - hour)
        case 42:
            return caller_valid(stage.tunnel, folder, now + hour, now + 2 * hour)
        case 48:
            return _stranger(stage.product)
        case _:
            files = stage.tunnel.identity.gateway("gw1")
            joined = folder / "gateway.pem"
            joined.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
            return joined


def _stranger(product: Product) -> Path:
    """Return a caller's bundle of another tunnel, which is made for the first who asks."""
    folder = product.folder / "stranger"
    if folder.exists():
        return Tunnel(product, "stranger", folder, {}).bundle()
    return product.make_tunnel("stranger", {}).bundle()


def test_the_relay_logs_only_what_the_threat_model_lists(stage: Stage) -> None:
    """Every field of every line of the relay's log stands in the table of what the relay sees."""
    relay = stage.product.relay
    assert relay is not None
    open_and_send(stage.product.relay_port, b"").close()
    anyio.run(_call_once, stage)
    cells = [row[0] for row in _rows(THREAT_MODEL, "What the relay sees")]
    documented = set(re.findall(r"`(\w+)`", " ".join(cells)))
    logged = {field for line in relay.lines() for field in line}
    assert logged - _OF_EVERY_LINE <= documented
    assert {"call", "tunnel", "link", "address", "bytes_in", "bytes_out"} <= logged


async def _call_once(stage: Stage) -> None:
    with anyio.fail_after(20):
        answer = await ModernClient(stage.tunnel.tls_endpoint()).call("probe_echo", text="seen by two")
    assert result_text(answer) == "seen by two"
    relay = stage.product.relay
    assert relay is not None
    await anyio.to_thread.run_sync(lambda: relay.wait_for("stream"))
