"""API keys as text, and the root that a caller with one finds by the tunnel's ID."""

from pathlib import Path

import pytest

from sallyport.certs.api_key import ApiKey, holds_api_key, looks_like_api_key
from sallyport.certs.contexts import root_asking_context, root_giving_context
from sallyport.certs.errors import CertificateRefused, FileRefused, NameRefused, Rule
from sallyport.certs.names import Role, TunnelId
from sallyport.certs.verify import find_root, unverified_chain
from tests.certs.certificate_kit import DAY, NOW, Chain, Tunnel, drafts, shake_hands

KEY = ApiKey.of_random(bytes(range(32)))


def test_a_key_is_its_random_bits() -> None:
    """256 of them, in a form that one click selects; different ones are different keys."""
    assert KEY.text.startswith(b"sp_")
    assert len(KEY.text) == 55
    assert ApiKey.of_random(bytes(31) + b"\1") != ApiKey.of_random(bytes(32))
    assert len(KEY.digest) == 32


def test_a_key_shows_itself_nowhere() -> None:
    """Not in a repr, and not in the refusal of what is nearly one."""
    assert KEY.text.decode() not in repr(KEY)
    nearly = KEY.text[:-1]
    with pytest.raises(NameRefused) as refused:
        ApiKey(nearly)
    assert nearly.decode() not in str(refused.value)
    assert nearly.decode() not in repr(refused.value)


@pytest.mark.parametrize(
    "text", [b"", b"sp_", KEY.text.upper(), KEY.text[3:], KEY.text + b"a", b" " + KEY.text, KEY.text + b"\n"]
)
def test_what_is_not_a_key_is_refused(text: bytes) -> None:
    """Exactly the form, nothing around it."""
    with pytest.raises(NameRefused):
        ApiKey(text)


@pytest.mark.parametrize(
    "around", [b"%b", b'"%b"', b"Bearer x,%b", b"a=%b;", b"Bearer%b", b"x%b", b"_%b", b"%bz", b"%b%%0A"]
)
def test_a_whole_key_is_found_in_any_disguise(around: bytes) -> None:
    """In capitals, too, and with anything in front or behind; a part of one is none."""
    assert holds_api_key(around % KEY.text)
    assert holds_api_key(around % KEY.text.upper())
    assert holds_api_key(around % KEY.text.capitalize())
    assert not holds_api_key(around % KEY.text[:-2])


@pytest.mark.parametrize(
    "token", [b"sp_" + b"Ab" * 30, b"sp_" + b"a" * 40 + b"-" + b"a" * 40, b"sp-" + b"a" * 52]
)
def test_the_tokens_of_other_systems_are_none(token: bytes) -> None:
    """Random letters of both cases are not taken for one of ours."""
    assert not holds_api_key(token)


@pytest.mark.parametrize("text", [KEY.text, KEY.text[3:], KEY.text.upper(), b" " + KEY.text, KEY.text[:-1]])
def test_what_may_be_a_key_is_known_by_its_looks(text: bytes) -> None:
    """Also without its prefix; names and paths have signs in them."""
    assert looks_like_api_key(text.decode())
    assert not looks_like_api_key("the-key-of-the-continuous-integration.in-the-north-of-europe")


def test_a_key_file_must_be_private_and_hold_a_key(tmp_path: Path) -> None:
    """White space around the key is no fault; a wide mode is, with the chmod to run."""
    path = tmp_path / "my.key"
    path.write_bytes(b"\n " + KEY.text + b"\r\n")
    path.chmod(0o600)
    assert ApiKey.load(path) == KEY

    path.chmod(0o644)
    with pytest.raises(FileRefused, match="holds an API key and has mode 0644") as refused:
        ApiKey.load(path)
    assert refused.value.hint == f"run: chmod 600 {path}"

    path.write_bytes(KEY.text[:-1])
    path.chmod(0o600)
    with pytest.raises(FileRefused, match="holds no API key") as refused:
        ApiKey.load(path)
    assert KEY.text[:-1].decode() not in str(refused.value)


def shown(tunnel: Tunnel, folder: Path) -> Chain:
    """Show a tunnel's root as its gateway does, and return what came."""
    door = root_giving_context(tunnel.leaf_files(folder, Role.GATEWAY), tunnel.root.certificate)
    done = shake_hands(door, root_asking_context(), tunnel.host).require()
    assert done.client.selected_alpn_protocol() == "sallyport-root/1"
    return unverified_chain(done.client)


def test_a_caller_finds_the_root_by_the_id(tmp_path: Path) -> None:
    """It comes with the gateway's chain, and is what its hash says."""
    tunnel = Tunnel.make()

    presented = shown(tunnel, tmp_path)

    root = find_root(presented, TunnelId(tunnel.label), now=NOW)
    assert root == tunnel.root.certificate
    assert presented[-1] == root


def test_another_tunnels_root_is_not_taken(tmp_path: Path) -> None:
    """Somebody who answers in the gateway's place cannot show the right one."""
    with pytest.raises(CertificateRefused) as refused:
        find_root(shown(Tunnel.make(), tmp_path), TunnelId(Tunnel.make().label), now=NOW)
    assert refused.value.rule is Rule.ANCHOR


def test_nothing_shown_is_no_root() -> None:
    """An empty chain is refused like a wrong one."""
    with pytest.raises(CertificateRefused):
        find_root((), TunnelId("a" * 32), now=NOW)


def test_a_root_that_has_ended_is_refused(tmp_path: Path) -> None:
    """The ID does not end, but the certificate does."""
    tunnel = Tunnel.make()
    with pytest.raises(CertificateRefused) as refused:
        find_root(shown(tunnel, tmp_path), TunnelId(tunnel.label), now=NOW + 20 * 365 * DAY)
    assert refused.value.rule is Rule.EXPIRED


@pytest.mark.parametrize("name", ["his own", "the root's"])
def test_a_certificate_for_the_roots_key_by_another_hand_is_not_the_root(name: str) -> None:
    """The hash alone is not enough: anybody may certify the public key with whatever he likes."""
    tunnel, attacker = drafts(Role.GATEWAY), drafts(Role.GATEWAY)
    if name == "the root's":
        attacker.root.subject = tunnel.root.subject
    certificate = tunnel.root.sign(attacker.root)

    with pytest.raises(CertificateRefused) as refused:
        find_root((certificate,), TunnelId(tunnel.label), now=NOW)
    assert refused.value.rule is (Rule.CHAIN if name == "the root's" else Rule.ANCHOR)
