"""The configuration that ``--print`` gives."""

import json
import shlex

import pytest

from sallyport.connector.snippets import Kind, LocalServer, snippet

TICKETS = LocalServer("tickets", 7420)


@pytest.mark.parametrize(
    ("server", "url"),
    [
        (TICKETS, "http://127.0.0.1:7420/mcp"),
        (LocalServer("tickets", 8000, "/api/v1/mcp"), "http://127.0.0.1:8000/api/v1/mcp"),
        (LocalServer("tickets", 7420, "/"), "http://127.0.0.1:7420/"),
    ],
)
def test_the_url_keeps_the_path_of_the_server(server: LocalServer, url: str) -> None:
    """The path is the server's own, whatever it is."""
    assert server.url == url


def test_claude_code_gets_a_command_and_a_file() -> None:
    """Both forms are whole: the command as one shell line, the file as JSON."""
    text = snippet(Kind.CLAUDE_CODE, TICKETS)
    command = next(line for line in text.splitlines() if line.startswith("claude "))
    assert shlex.split(command) == [
        *("claude", "mcp", "add", "--transport", "http", "tickets", "http://127.0.0.1:7420/mcp")
    ]
    file = json.loads(text[text.index("{") :])
    assert file == {"mcpServers": {"tickets": {"type": "http", "url": "http://127.0.0.1:7420/mcp"}}}


def test_a_path_that_means_something_to_a_shell_is_quoted() -> None:
    """The command line stays one command whatever the path holds."""
    text = snippet(Kind.CLAUDE_CODE, LocalServer("tickets", 7420, "/mcp;x&y"))
    command = next(line for line in text.splitlines() if line.startswith("claude "))
    assert shlex.split(command)[-1] == "http://127.0.0.1:7420/mcp;x&y"
    assert "'" in command


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_snippet_with_the_url(kind: Kind) -> None:
    """No kind that the command line offers is without a row in the table."""
    text = snippet(kind, TICKETS)
    assert TICKETS.url in text
    assert text.endswith("\n")


def test_the_sdk_snippet_is_python() -> None:
    """It compiles as it is; ``test_sdk_snippet.py`` runs it."""
    compile(snippet(Kind.MCP_SDK, TICKETS), "snippet", "exec")
