"""The loader says file, line, key, what was wanted and what to do, whatever is wrong with a file."""

import os
from pathlib import Path

import pytest

from sallyport.config.errors import ConfigError
from sallyport.config.loader import load_gateway, load_relay

_SAMPLES = Path(__file__).parents[2] / "config" / "samples"
_TUNNEL = "tunnel: {id: tnl_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}\n"
_RELAY = "relay: {address: relay.example.com:443, ca: system}\n"
_SERVERS = 'servers: {tickets: {url: "http://127.0.0.1:9000/mcp"}}\n'
_GATEWAY = _TUNNEL + _RELAY + _SERVERS
_RELAY_FILE = "listen: 0.0.0.0:443\ndomain: tunnel.example.com\ntls: {certificate: a, key: b}\n"


def _write(folder: Path, text: str | bytes, name: str = "gateway.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _refusal(path: Path) -> ConfigError:
    load = load_relay if path.name == "relay.yaml" else load_gateway
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.file == str(path)
    return caught.value


@pytest.mark.parametrize("kind", ["minimal", "full"])
def test_every_shipped_sample_loads(kind: str) -> None:
    """What people start from is right, and the pairs are whole."""
    gateway = load_gateway(_SAMPLES / f"gateway-{kind}.yaml")
    relay = load_relay(_SAMPLES / f"relay-{kind}.yaml")
    assert gateway.servers["tickets"].url == "http://127.0.0.1:9000/mcp"
    assert relay.domain == "tunnel.example.com"


def test_full_samples_name_every_key() -> None:
    """A full sample leaves no key out, so it can be trusted as the list of them; pin excludes ca."""
    gateway = load_gateway(_SAMPLES / "gateway-full.yaml")
    wiki = gateway.servers["wiki"]
    for section in (gateway, gateway.tunnel, gateway.limits, gateway.log, wiki, wiki.timeouts):
        assert section.model_fields_set == set(type(section).model_fields)
    assert gateway.relay.model_fields_set == {"address", "ca"}
    relay = load_relay(_SAMPLES / "relay-full.yaml")
    for section in (relay, relay.limits):
        assert section.model_fields_set == set(type(section).model_fields)


def test_samples_come_in_pairs() -> None:
    """Nothing else lies in the folder, so nothing ships untested."""
    assert sorted(p.name for p in _SAMPLES.iterdir()) == [
        "gateway-full.yaml",
        "gateway-minimal.yaml",
        "relay-full.yaml",
        "relay-minimal.yaml",
    ]


def test_relative_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    """Defaults included; absolute ones stay; the database's path follows the same rule."""
    text = _TUNNEL + "relay: {address: r.example.com, ca: /etc/ca.pem}\n" + _SERVERS
    gateway = load_gateway(_write(tmp_path, text))
    assert gateway.tunnel.identity == tmp_path / "identity"
    assert gateway.relay.ca == Path("/etc/ca.pem")
    assert gateway.relay.address.port == 443
    assert gateway.path == tmp_path / "gateway.yaml"
    relay = load_relay(_write(tmp_path, _RELAY_FILE, "relay.yaml"))
    assert relay.tls.key == tmp_path / "b"
    assert relay.database == f"sqlite:///{tmp_path}/relay.db"


def test_file_is_looked_for_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --config, ./gateway.yaml is taken; where there is none, both places are named."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_gateway()
    assert "gateway.yaml or /etc/sallyport/gateway.yaml" in str(caught.value)
    _write(tmp_path, _GATEWAY)
    assert load_gateway().path == tmp_path / "gateway.yaml"


@pytest.mark.parametrize(
    ("text", "line", "key", "message", "hint"),
    [
        (_GATEWAY + "helth: 127.0.0.1:1\n", 4, "helth", "unknown key", "did you mean 'health'?"),
        (
            _TUNNEL + _RELAY + "servers:\n  wiki:\n    urll: http://h/\n",
            5,
            "servers.wiki.urll",
            "unknown key",
            "did you mean 'url'?",
        ),
        (
            _GATEWAY + "zzz: 1\n",
            4,
            "zzz",
            "unknown key",
            "known here: tunnel, relay, servers, keys, limits, workers, health, log",
        ),
        (
            _GATEWAY + "path: /x\n",
            4,
            "path",
            "unknown key",
            "known here: tunnel, relay, servers, keys, limits, workers, health, log",
        ),
        (_RELAY + _SERVERS, 1, "tunnel", "is missing", ""),
        (_TUNNEL + "relay: {ca: system}\n" + _SERVERS, 2, "relay.address", "is missing", ""),
        (_TUNNEL + _RELAY + "servers: {}\n", 3, "servers", "must not be empty", "name at least one"),
        (_TUNNEL + _RELAY + "servers: [a]\n", 3, "servers", "wanted a mapping, found a list", ""),
        (_TUNNEL + _RELAY + "servers: {a: text}\n", 3, "servers.a", "wanted a mapping, found text", ""),
        (
            _GATEWAY + "log: {level: loud}\n",
            4,
            "log.level",
            "wanted debug, info, warning or error",
            "",
        ),
        (_GATEWAY + "workers: 0\n", 4, "workers", "wanted auto or a number from 1 to 16, found 0", ""),
        (_GATEWAY + "workers: 17\n", 4, "workers", "wanted auto or a number from 1 to 16, found 17", ""),
        (_GATEWAY + "workers: all\n", 4, "workers", "wanted auto or a number from 1 to 16, found 'all'", ""),
        (_GATEWAY + "workers: true\n", 4, "workers", "wanted auto or a number from 1 to 16, found True", ""),
        (_GATEWAY + "keys: maybe\n", 4, "keys", "wanted off, on or a mapping, found text", ""),
        (_GATEWAY + "keys: [a]\n", 4, "keys", "wanted off, on or a mapping, found a list", ""),
        (_GATEWAY + "keys: {fiel: a}\n", 4, "keys.fiel", "unknown key", "did you mean 'file'?"),
        (_GATEWAY + "keys: {file: 1}\n", 4, "keys.file", "wanted a path, found a number", ""),
        (_GATEWAY + _TUNNEL, 4, "tunnel", "given twice, first on line 1", "keep one of them"),
        ("- a\n", 1, "", "wanted a mapping, found a list", "write `key: value` lines"),
        ("a: &x 1\n", 1, "a", "anchors and aliases are refused", "write it out"),
        ("a: !!python/object:os.system {}\n", 1, "a", "tags (!…) are refused", "write the plain value"),
        (_GATEWAY + "---\na: 1\n", 4, "", "a second document begins here", "keep one"),
        ("? [a]\n: 1\n", 1, "", "a key must be a word", ""),
        ("a: " + "[" * 20 + "]" * 20, 1, "a" + ".0" * 15, "nested deeper than 16 levels", ""),
        ("a: b\n\tc: d\n", 2, "", None, "indent with spaces, not with tabs"),
        ("a: [1\nb: 2\n", 2, "", None, None),
        ("a: b\x07\n", 1, "", "not YAML: a control character", "remove it"),
        ("\n \n", 0, "", "the file is empty", "start from config/samples"),
        ("", 0, "", "the file is empty", "start from config/samples"),
        ("# nothing\n", 1, "", "wanted a mapping, found nothing", "write `key: value` lines"),
    ],
)
def test_what_is_wrong_is_told(
    text: str, line: int, key: str, message: str | None, hint: str | None, tmp_path: Path
) -> None:
    """Each fault names its line and key; None leaves the parser's own words open."""
    refusal = _refusal(_write(tmp_path, text))
    assert (refusal.line, refusal.key) == (line, key)
    assert message is None or refusal.message == message
    assert hint is None or refusal.hint == hint


def test_error_is_one_line(tmp_path: Path) -> None:
    """The text is what an editor can jump to."""
    path = _write(tmp_path, _GATEWAY + "helth: 1\n")
    assert str(_refusal(path)) == f"{path}:4: helth: unknown key"


def test_unknown_key_is_told_before_the_missing_one(tmp_path: Path) -> None:
    """A mistyped key is one fault and not two."""
    refusal = _refusal(_write(tmp_path, _TUNNEL + _RELAY + "servers: {a: {ulr: 'http://h/'}}\n"))
    assert (refusal.key, refusal.hint) == ("servers.a.ulr", "did you mean 'url'?")


def test_off_and_yes_are_words(tmp_path: Path) -> None:
    """YAML 1.1 would make booleans of them."""
    assert load_gateway(_write(tmp_path, _GATEWAY + "keys: off\n")).keys is None
    assert load_gateway(_write(tmp_path, _GATEWAY + "keys: false\n")).keys is None
    refusal = _refusal(
        _write(tmp_path, _TUNNEL + _RELAY + "servers: {a: {url: 'http://h/', passthrough: yes}}\n")
    )
    assert refusal.message == "wanted true or false, found text"


@pytest.mark.parametrize(
    ("written", "file"),
    [("on", "keys.json"), ("true", "keys.json"), ("{}", "keys.json"), ("{file: ./a/k.json}", "a/k.json")],
)
def test_keys_lie_beside_the_config(written: str, file: str, tmp_path: Path) -> None:
    """Turned on, they have a file, and it is the config's folder that it lies in."""
    keys = load_gateway(_write(tmp_path, _GATEWAY + f"keys: {written}\n")).keys
    assert keys is not None
    assert keys.file == tmp_path / file


def test_keys_are_off_unless_they_are_turned_on(tmp_path: Path) -> None:
    """Nobody gets them by leaving a line out."""
    assert load_gateway(_write(tmp_path, _GATEWAY)).keys is None


def test_json_pastes_in(tmp_path: Path) -> None:
    """JSON is YAML."""
    text = """{
      "tunnel": {"id": "tnl_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
      "relay": {"address": "[::1]:443", "ca": "system"},
      "servers": {"a b": {"url": "https://[::1]:9000/mcp", "passthrough": false}}}"""
    gateway = load_gateway(_write(tmp_path, text))
    assert str(gateway.relay.address) == "[::1]:443"
    assert gateway.servers["a b"].passthrough is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: b\0\n", "the file is binary, not text"),
        (b"a: 1\nb: \xff\n", "not UTF-8 text"),
        (b"a: 1\n" * 220_000, "larger than 1 MiB"),
    ],
)
def test_file_that_is_no_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """Binary, another encoding, or far too large."""
    assert _refusal(_write(tmp_path, content)).message == message


def test_byte_order_mark_is_taken(tmp_path: Path) -> None:
    """Some editors write one."""
    assert load_gateway(_write(tmp_path, b"\xef\xbb\xbf" + _GATEWAY.encode())).health is None


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory."""
    assert _refusal(tmp_path / "gateway.yaml").message == "no such file"
    assert _refusal(tmp_path).message == "is a directory"


@pytest.mark.platform("linux", "darwin")
def test_fifo_does_not_hang(tmp_path: Path) -> None:
    """A FIFO without a writer would block a plain open for ever."""
    os.mkfifo(tmp_path / "gateway.yaml")
    assert _refusal(tmp_path / "gateway.yaml").message == "is no regular file"


def test_billion_laughs_cost_nothing(tmp_path: Path) -> None:
    """The first anchor ends it."""
    bomb = 'a: &a ["lol"]\n' + "".join(f"k{n}: &x{n} [*a, *a]\n" for n in range(30))
    assert _refusal(_write(tmp_path, bomb)).message == "anchors and aliases are refused"


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        (
            "proxy_protocol_from: [10.0.0.1, balancer.example.com]",
            "proxy_protocol_from.1",
            "'balancer.example.com' is no IP address and no network",
        ),
        (
            "proxy_protocol_from: [10.0.0.1/24]",
            "proxy_protocol_from.0",
            "10.0.0.1/24 is an address inside a network",
        ),
        (
            "proxy_protocol_from: ['::/0']",
            "proxy_protocol_from.0",
            "::/0 is everybody: any caller could claim any address",
        ),
        (
            "proxy_protocol_from: ['::ffff:10.0.0.0/120']",
            "proxy_protocol_from.0",
            "::ffff:10.0.0.0/120 is IPv4 written as IPv6",
        ),
        (
            "proxy_protocol_from: [10]",
            "proxy_protocol_from.0",
            "wanted an address or a network, found a number",
        ),
        ("proxy_protocol_from: 10.0.0.1", "proxy_protocol_from", "wanted a list, found text"),
        (
            "health: 0.0.0.0:7431",
            "health",
            "0.0.0.0 is not loopback: whoever reaches the health listener may read it",
        ),
        ("database: mysql://h/d", "database", "no database URL: wanted sqlite:///FILE or postgresql://…"),
        (
            "database: 'sqlite:///:memory:'",
            "database",
            "an SQLite database must be a file: `relay tunnel add` writes it too",
        ),
    ],
)
def test_relay_file_is_judged_alike(line: str, key: str, message: str, tmp_path: Path) -> None:
    """The relay's own keys."""
    refusal = _refusal(_write(tmp_path, f"{_RELAY_FILE}{line}\n", "relay.yaml"))
    assert (refusal.line, refusal.key, refusal.message) == (4, key, message)


@pytest.mark.parametrize(
    "relay",
    ["relay: {address: 'r:1'}", "relay: {address: 'r:1', ca: system, pin: sha256/" + "A" * 43 + "=}"],
)
def test_relay_proves_itself_in_exactly_one_way(relay: str, tmp_path: Path) -> None:
    """Neither and both are refused: nothing is trusted on first use."""
    refusal = _refusal(_write(tmp_path, f"{_TUNNEL}{relay}\n{_SERVERS}"))
    assert refusal.key == "relay"
    assert refusal.message.endswith("given, wanted one")


def test_password_in_a_url_is_not_repeated(tmp_path: Path) -> None:
    """An error goes to logs and screens."""
    refusal = _refusal(_write(tmp_path, _TUNNEL + _RELAY + "servers: {a: {url: 'http://me:secret@h/'}}\n"))
    assert "secret" not in str(refusal) + refusal.hint
    assert refusal.key == "servers.a.url"
