"""``sallyport connect`` as a user types it."""

import asyncio
import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import anyio
import pytest

from sallyport.certs.errors import NameRefused
from sallyport.cli import main
from sallyport.connector.cli import _on_stop_signal
from sallyport.connector.cli_options import parse_target
from tests.harness.child_process import ChildProcess, run_sallyport, sallyport_command
from tests.harness.identity import TestIdentity

TUNNEL = "tnl_" + "a" * 32


@pytest.mark.parametrize("server", [None, "tickets"])
def test_a_target_names_a_tunnel_and_perhaps_a_server(server: str | None) -> None:
    """Both forms of the argument are read."""
    tunnel, found = parse_target(TUNNEL if server is None else f"{TUNNEL}/{server}")
    assert (str(tunnel), found) == (TUNNEL, server)


@pytest.mark.parametrize(
    "text", ["", "tickets", "tnl_short", TUNNEL + "/", TUNNEL + "/link", TUNNEL + "/_canary", TUNNEL + "/a/b"]
)
def test_a_target_that_is_none_is_refused(text: str) -> None:
    """A wrong ID and a name that no server can have are told apart by the error."""
    with pytest.raises(NameRefused, match=r"tunnel ID|server name"):
        parse_target(text)


def test_claude_code_gets_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """Printing needs no bundle: the file goes to where it may be piped, and what to do with it beside it."""
    assert main(["connect", f"{TUNNEL}/tickets", "--print", "claude-code"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["mcpServers"]["tickets"]["url"] == "http://127.0.0.1:7420/mcp"
    assert printed.err.startswith("# .mcp.json")
    assert "claude mcp add --transport http tickets http://127.0.0.1:7420/mcp\n" in printed.err


@pytest.mark.parametrize("kind", ["anthropic-api", "openai-api"])
def test_a_hosted_client_is_told_that_it_needs_a_public_name(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to paste: what calls from elsewhere cannot reach this machine."""
    assert main(["connect", f"{TUNNEL}/tickets", "--print", kind]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"error: {kind} calls MCP servers from its provider's machines" in printed.err
    assert "a public name" in printed.err


def test_the_printed_url_follows_port_and_path(capsys: pytest.CaptureFixture[str]) -> None:
    """What the command would serve is what it prints."""
    arguments = ["connect", f"{TUNNEL}/wiki", "--port", "8123", "--path", "/api/mcp", "--print", "mcp-sdk"]
    assert main(arguments) == 0
    assert '"http://127.0.0.1:8123/api/mcp"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([TUNNEL, "--print", "claude-code"], f"name one server: {TUNNEL}/SERVER"),
        ([f"{TUNNEL}/a", "--print", "nonsense"], "nonsense"),
        ([f"{TUNNEL}/a", "--print", "mcp-sdk", "--port", "0"], "0 is no port"),
        ([f"{TUNNEL}/a", "--print", "mcp-sdk", "--path", "mcp"], "a path begins with /"),
        ([f"{TUNNEL}/a", "--port", "65536"], "65535"),
        ([f"{TUNNEL}/a", "--relay", "relay:port"], "is not a number"),
        ([f"{TUNNEL}/a", "--log-level", "loud"], "loud"),
        ([], "TUNNEL_ID"),
    ],
)
def test_a_command_that_was_not_understood_is_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong options exit 2 and name what is wrong."""
    assert main(["connect", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_missing_bundle_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """The whole path is in the error, and the remedy in the hint."""
    homeless = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "APPDATA": str(tmp_path)}
    ended = run_sallyport("connect", TUNNEL, folder=tmp_path, environment=homeless)
    assert ended.returncode == 1
    error, hint = ended.stderr.splitlines()
    assert re.fullmatch(rf"error: no bundle for tunnel {TUNNEL}: looked at .*\.bundle\.pem", error)
    assert "--bundle FILE" in hint


def test_a_taken_port_ends_the_command(tunnel: TestIdentity, tmp_path: Path) -> None:
    """The port in the agent's configuration is never silently another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = (str(tunnel.bundle.tunnel), "--bundle", tunnel.bundle.path, "--port", str(port))
        ended = run_sallyport("connect", *arguments, folder=tmp_path)
    assert ended.returncode == 1
    assert f"error: cannot listen at 127.0.0.1:{port}: address already in use" in ended.stderr
    assert f"--port {port + 1}" in ended.stderr


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_starts_without_a_gateway_and_stops_when_told_to(
    tunnel: TestIdentity, tmp_path: Path, loop: str
) -> None:
    """The endpoint is there at once, is logged, and SIGTERM ends it with exit code 0."""
    command = sallyport_command(
        *("connect", f"{tunnel.bundle.tunnel}/tickets", "--bundle", tunnel.bundle.path),
        *("--port", "0", "--relay", "127.0.0.1:1"),
    )
    environment = {"SALLYPORT_LOOP": loop}
    with ChildProcess("connector", command, folder=tmp_path, environment=environment) as connector:
        line = connector.wait_for("listening", tunnel=str(tunnel.bundle.tunnel), server="tickets")
        host, _, port = str(line["address"]).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"GET /mcp HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["data"]["hop"] == "relay"
        connector.wait_for("call", status=503, hop="relay", executed="no")
        assert connector.stop() == 0
        assert "Traceback" not in connector.log


def test_people_are_told_where_it_is_and_what_to_paste(tunnel: TestIdentity, tmp_path: Path) -> None:
    """Text on standard error is for people: the URL, the next command, and who else can use it."""
    target = f"{tunnel.bundle.tunnel}/tickets"
    command = sallyport_command(
        *("connect", target, "--bundle", tunnel.bundle.path, "--port", "0", "--log-format", "text")
    )
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as connector:
        assert connector.stderr is not None
        said = ""
        while "stop with Ctrl-C" not in said:
            line = connector.stderr.readline()
            assert line, f"it ended: {said}"
            said += line
        connector.send_signal(signal.SIGINT)
        assert connector.wait() == 0
    assert re.search(rf"{target} is at http://127\.0\.0\.1:[0-9]+/mcp", said)
    assert "--print claude-code (--help lists other clients)" in said


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_without_signals_is_stopped_by_pythons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the loop cannot watch signals, and Ctrl-C ends the command all the same."""
    loop = asyncio.get_running_loop()
    stopped = anyio.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def unsupported(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_signal_handler", unsupported)
    try:
        with anyio.fail_after(10), _on_stop_signal(stopped.set):
            signal.raise_signal(signal.SIGTERM)
            await stopped.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
