"""The configuration that ``--print`` gives; ``make clients`` gives it to the clients themselves."""

import json
import shlex
import tomllib

import pytest

from sallyport.connector.errors import PublicNameNeeded
from sallyport.connector.snippets import Kind, LocalServer, snippet

TICKETS = LocalServer("tickets", 7420)
URL = "http://127.0.0.1:7420/mcp"
HOSTED = (Kind.ANTHROPIC_API, Kind.OPENAI_API)
PROGRAMS = (Kind.MCP_SDK, Kind.OPENAI_AGENTS, Kind.LANGCHAIN, Kind.PYDANTIC_AI)


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (TICKETS, URL),
        (LocalServer("tickets", 8000, "/api/v1/mcp"), "http://127.0.0.1:8000/api/v1/mcp"),
        (LocalServer("tickets", 7420, "/"), "http://127.0.0.1:7420/"),
    ],
)
def test_the_url_keeps_the_path_of_the_server(server: LocalServer, url: str) -> None:
    """The path is the server's own, whatever it is."""
    assert server.url == url


@pytest.mark.parametrize(
    ("kind", "place", "content"),
    [
        (Kind.CLAUDE_CODE, ".mcp.json", {"mcpServers": {"tickets": {"type": "http", "url": URL}}}),
        (
            Kind.CLAUDE_DESKTOP,
            "claude_desktop_config.json",
            {
                "mcpServers": {
                    "tickets": {
                        "command": "npx",
                        "args": ["-y", "mcp-remote", URL, "--allow-http", "--transport", "http-only"],
                    }
                }
            },
        ),
        (Kind.CURSOR, ".cursor/mcp.json", {"mcpServers": {"tickets": {"url": URL}}}),
        (Kind.VSCODE, ".vscode/mcp.json", {"servers": {"tickets": {"type": "http", "url": URL}}}),
        (Kind.GEMINI, ".gemini/settings.json", {"mcpServers": {"tickets": {"type": "http", "url": URL}}}),
    ],
)
def test_files_in_json(kind: Kind, place: str, content: object) -> None:
    """The text is the whole file, in the shape that the client documents, and its place is named."""
    found = snippet(kind, TICKETS)
    assert json.loads(found.text) == content
    assert found.place.startswith(place)


def test_codex_gets_toml() -> None:
    """The table stands under its own header, so it may be added to a file that has others."""
    found = snippet(Kind.CODEX, TICKETS)
    assert tomllib.loads(found.text) == {"mcp_servers": {"tickets": {"url": URL}}}
    assert found.text.startswith("[")


def test_claude_code_gets_a_command_too() -> None:
    """The command stays one command whatever the path means to a shell."""
    place = snippet(Kind.CLAUDE_CODE, LocalServer("tickets", 7420, "/mcp;x&y")).place
    command = shlex.split(place.partition("or run: ")[2])
    assert command == ["claude", "mcp", "add", "--transport", "http", "tickets", f"{URL};x&y"]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in HOSTED])
@pytest.mark.parametrize("path", ["/mcp", '/it"s\\a'])
def test_every_kind_has_a_whole_text(kind: Kind, path: str) -> None:
    """No kind that the command line offers is without a row, and no path breaks out of its quotes."""
    server = LocalServer("tickets", 7420, path)
    found = snippet(kind, server)
    assert json.dumps(server.url) in found.text
    assert found.text.endswith("\n")
    assert "\n" not in found.place


@pytest.mark.parametrize("kind", HOSTED)
def test_hosted_clients_need_a_public_name(kind: Kind) -> None:
    """What calls from elsewhere is told why it cannot, and what can."""
    with pytest.raises(PublicNameNeeded, match="a public name") as caught:
        snippet(kind, TICKETS)
    assert "mcp-sdk" in caught.value.hint


@pytest.mark.parametrize("kind", PROGRAMS)
def test_python_programs_compile(kind: Kind) -> None:
    """``test_sdk_snippet.py`` runs the first of them, ``make clients`` all."""
    compile(snippet(kind, TICKETS).text, "snippet", "exec")
