"""The documents that are made from the code are what the code says, and say all of it."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from sallyport import reference
from sallyport.config.document import read_document
from sallyport.config.gateway import GatewayConfig
from sallyport.config.relay import RelayConfig
from sallyport.config.sections import Section
from sallyport.key_reference import keys_of, schema_of, written
from sallyport.limit_reference import marks, shown
from sallyport.tunnel.limits import MAX_STREAMS, MEMORY_BUDGET
from tests.harness.child_process import CHECKOUT

_DOCS = CHECKOUT / "docs"
_SAMPLES = CHECKOUT / "config" / "samples"
_MODELS = {"gateway": GatewayConfig, "relay": RelayConfig}
_GATEWAY = {
    "tunnel": {"id": "tnl_" + "a" * 32},
    "relay": {"address": "relay.example.com:443", "ca": "system"},
    "servers": {"tickets": {"url": "http://127.0.0.1:9000/mcp"}},
}


def test_nothing_is_stale() -> None:
    """The documents in the checkout are those that the code would write now; ``make docs`` writes them."""
    assert reference.stale(_DOCS) == []


def test_the_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is written and then current; what somebody changed is stale, and named."""
    assert reference.main([str(tmp_path)]) == 0
    assert reference.main([str(tmp_path), "--check"]) == 0
    (tmp_path / "limits.md").write_text("# Limits\n")
    capsys.readouterr()
    assert reference.main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err == "error: stale: limits.md; run `make docs`\n"


# -- configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", _MODELS.values())
def test_every_key_is_described(model: type[Section]) -> None:
    """A key says what it means and what kind of value it takes: pydantic's own title is no kind."""
    for key, schema, _is_required in keys_of(model):
        assert schema.get("description"), f"{key}: write its meaning below the field"
        kind = schema["items"] if schema.get("type") == "array" else schema
        assert {"type", "enum", "const", "anyOf"} & set(kind), f"{key}: give its field a WithJsonSchema"


@pytest.mark.parametrize("sample", sorted(_SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_samples_fit_their_schema(sample: Path) -> None:
    """An editor finds the schema by the sample's first line, and has nothing to underline."""
    first = sample.read_text().partition("\n")[0]
    link = first.removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((sample.parent / link).read_text())
    assert schema == json.loads((_DOCS / f"{sample.name.partition('-')[0]}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(read_document(sample.read_text()).value, schema)


@pytest.mark.parametrize(
    "changed",
    [
        {"serverz": {}},
        {"limits": {"request_body": 1000}},
        {"limits": {"streams_per_caller": 0}},
        {"relay": {"address": "relay.example.com:443"}},
        {"relay": {"address": "relay.example.com:443", "ca": "system", "pin": "sha256/" + "A" * 43 + "="}},
        {"tunnel": {"id": "tnl_short"}},
        {"servers": {}},
        {"log": {"level": "loud"}},
        {"path": "gateway.yaml"},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(changed: dict[str, object]) -> None:
    """Unknown keys, wrong kinds, missing and contradicting ones are underlined while they are typed."""
    schema = schema_of(GatewayConfig)
    jsonschema.validate(_GATEWAY, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_GATEWAY | changed, schema)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (5.0, "duration", "5s"),
        (600.0, "duration", "10m"),
        (0.5, "duration", "500ms"),
        (90.0, "duration", "90s"),
        (128 * 1024**2, "size", "128MiB"),
        (1024, "size", "1KiB"),
    ],
)
def test_defaults_are_written_as_a_file_has_them(value: float, kind: str, text: str) -> None:
    """The page shows what an operator would type."""
    assert written(value, kind) == text


# -- limits -------------------------------------------------------------------------------------------

# Numbers that bound nothing: what somebody else's format says, or how something is counted.
_NO_LIMITS = {
    "connector/cli.py": {"DEFAULT_PORT"},
    "connector/local_request.py": {"_HTTP_PORT"},
    "gateway/app.py": {"_DAY_SECONDS", "_WARN_DAYS", "_DRAIN_INTERVAL", "_COMPANY_INTERVAL"},
    "gateway/cli.py": {"_PIPE_WIDTH"},
    "gateway/keys.py": {"VERSION"},
    "gateway/workers.py": {"_LOOK_INTERVAL", "_NOTHING_DUE"},
    "gateway/keys_cli.py": {"_PIPE_WIDTH"},
    "relay/store.py": {"SCHEMA_VERSION"},
    "tunnel/proxy_v2.py": {"_FIXED", "_INET", "_INET6", "_LOCAL", "_PROXY", "_STREAM", "_VERSION"},
    "tunnel/alerts.py": {"_ALERT_RECORD", "_FATAL"},
    "tunnel/frames.py": {"FIRST_IGNORABLE", "_OPEN_FIXED"},
    "tunnel/hello.py": {"PROTOCOL_VERSION", "_INTEGER_MAX"},
    "tunnel/hello_records.py": {
        *("_RECORD_HEADER", "_HANDSHAKE_RECORD", "_MAX_FRAGMENT", "MESSAGE_HEADER", "_CLIENT_HELLO")
    },
    "tunnel/keepalive.py": {"_SLOWLY"},
    "tunnel/http1_memo.py": {"_MOST_DIGITS"},
    "tunnel/limits.py": {"KIB", "MIB"},
    "tunnel/net/departure.py": {"_CUTTING_INTERVAL"},
    "tunnel/net/unread.py": {"_PIECE"},
    "tunnel/opening.py": {"_REFERENCE_SIZE"},
    "tunnel/scheduler.py": {"_CREDIT_FRAME", "_SLIVER"},
    "tunnel/sni.py": {"_SERVER_NAME", "_ALPN", "_HOST_NAME"},
    "tunnel/tls_engine.py": {"_RECORD"},
    "tunnel/windows.py": {"_PART", "_GROWTH_ROUND_TRIPS"},
}
_PACKAGES = ("relay", "gateway", "connector", "tunnel")
_SOURCES = sorted(path for package in _PACKAGES for path in (CHECKOUT / package).rglob("*.py"))


def _numbers(path: Path) -> Iterator[str]:
    """Yield a file's constants that are written as a number."""
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                continue
        parts = list(ast.walk(value))
        allowed = (ast.Constant, ast.BinOp, ast.operator, ast.Name, ast.Load)
        if all(isinstance(part, allowed) for part in parts) and any(
            isinstance(part, ast.Constant) and type(part.value) in (int, float) for part in parts
        ):
            yield name


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_number_is_a_limit_or_none(path: Path) -> None:
    """A new number is marked with ``limit``, with unit and reason, or listed above as something else."""
    unmarked = set(_numbers(path))
    listed = _NO_LIMITS.get(path.relative_to(CHECKOUT).as_posix(), set())
    assert unmarked - listed == set()


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_mark_says_why(path: Path) -> None:
    """A reason is a text of the source, long enough to be one, and fits into a cell of the table."""
    for name, mark in marks(path.read_text()):
        _, unit, reason = map(ast.unparse, mark.args)
        assert ast.literal_eval(unit), name
        assert len(ast.literal_eval(reason)) > 20, name
        assert not set("|\n") & set(ast.literal_eval(reason)), name


def test_defaults_of_the_files_are_those_of_the_protocol() -> None:
    """The config package cannot import the protocol's numbers, so this holds them together."""
    gateway = GatewayConfig.model_fields["limits"].default
    assert (gateway.memory, gateway.streams_per_link) == (MEMORY_BUDGET, MAX_STREAMS)
    assert RelayConfig.model_fields["limits"].default.memory == MEMORY_BUDGET


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (64 * 1024, "bytes", "64 KiB"),
        (1000, "bytes", "1,000 bytes"),
        (0.25, "seconds", "0.25 s"),
        (4000.0, "per second", "4,000/s"),
        (2**31 - 1, "number", "2,147,483,647"),
        (64, "links", "64 links"),
    ],
)
def test_values_are_shown_with_their_unit(value: float, unit: str, text: str) -> None:
    """As a reader likes numbers."""
    assert shown(value, unit) == text
