"""Issuing: what ``certs init`` and ``certs issue`` leave on the disk, and what they will not do."""

import os
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sallyport.certs import issuer, storage
from sallyport.certs.bundle import Bundle
from sallyport.certs.check import check_directory
from sallyport.certs.contexts import caller_context, door_context
from sallyport.certs.errors import (
    CertificateError,
    CertificateRefused,
    FileRefused,
    IssuingRefused,
    NameRefused,
)
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.issuer import add_domains, create_identity, issue_caller, issue_leaf
from sallyport.certs.names import Role, tunnel_host
from sallyport.certs.verify import verified_chain, verify_bundle, verify_identity, verify_leaf_file
from tests.certs.certificate_kit import DAY, DOMAIN, NOW, Tunnel, shake_hands, write_leaf


def create(path: Path, *domains: str) -> IdentityDirectory:
    """Make an identity with one gateway."""
    return create_identity(path, domains=domains or (DOMAIN,), relay="relay.test:443", name="gw1", now=NOW)


@pytest.fixture
def identity(tmp_path: Path) -> IdentityDirectory:
    """Make an identity in a temporary folder."""
    return create(tmp_path / "identity")


def listing(path: Path) -> dict[str, int]:
    """List everything below a directory with its mode."""
    return {str(file.relative_to(path)): stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*")}


@pytest.mark.platform("linux", "darwin")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_an_identity_has_the_files_and_modes_of_the_design(tmp_path: Path, umask: int) -> None:
    """Directories are 0700 and keys 0600, whatever the umask; certificates may be read by all."""
    before = os.umask(umask)
    try:
        directory = create(tmp_path / "identity")
        issue_caller(directory, "alice", domain=None, now=NOW)
    finally:
        os.umask(before)

    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert listing(directory.path) == {
        **{"identity.yaml": 0o644, "root.pem": 0o644, "root.key": 0o600},
        **{"gateways.pem": 0o644, "gateways.key": 0o600, "callers.pem": 0o644, "callers.key": 0o600},
        **{"gateway": 0o700, "gateway/gw1.pem": 0o644, "gateway/gw1.key": 0o600},
        **{"link": 0o700, "link/gw1.pem": 0o644, "link/gw1.key": 0o600},
        **{"callers": 0o700, "callers/alice.bundle.pem": 0o600},
    }


def test_a_new_identity_knows_itself(identity: IdentityDirectory) -> None:
    """ID, domains and relay are read back from what was written."""
    assert identity.domains() == (DOMAIN,)
    assert identity.relay() == "relay.test:443"
    assert all(finding.is_good for finding in check_directory(identity.path, now=NOW))


@pytest.mark.parametrize("role", [Role.GATEWAY, Role.LINK])
def test_the_first_gateways_leaves_are_good(identity: IdentityDirectory, role: Role) -> None:
    """After init the next command can be ``gateway run``."""
    label = identity.tunnel_id().label
    files = identity.leaf(role, "gw1")

    verify_leaf_file(files, root=identity.root_certificate(), role=role, label=label, now=NOW)


@pytest.mark.parametrize("role", [Role.GATEWAY, Role.LINK])
def test_issues_further_leaves(identity: IdentityDirectory, role: Role) -> None:
    """Another gateway gets leaves of its own."""
    path = issue_leaf(identity, role, "gw2", now=NOW)

    assert path == identity.leaf(role, "gw2").certificate
    assert len(identity.leaf(role, "gw2").load_presented()) == 2


def test_issues_bundles(tmp_path: Path) -> None:
    """A caller's bundle is good, and is for the domain that was asked for, the first one otherwise."""
    identity = create(tmp_path / "identity", "a.test", "b.test")

    first = Bundle.load(issue_caller(identity, "alice", domain=None, now=NOW))
    second = Bundle.load(issue_caller(identity, "bob", domain="b.test", now=NOW))

    assert (first.domain, second.domain) == ("a.test", "b.test")
    assert verify_bundle(first, now=NOW).name == "alice"


def test_fills_a_directory_that_is_there_and_empty(tmp_path: Path) -> None:
    """The mount point of an empty volume is as good as no directory; it becomes private."""
    path = tmp_path / "identity"
    path.mkdir(mode=0o755)

    create(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert (path / "root.pem").exists()


@pytest.mark.parametrize("there", ["a file", "a folder with a file", "a dangling link", "an identity"])
def test_overwrites_nothing(tmp_path: Path, there: str) -> None:
    """Whatever is at the path already is left alone."""
    path = tmp_path / "identity"
    match there:
        case "a file":
            path.write_text("mine")
        case "a folder with a file":
            path.mkdir()
            (path / "mine").touch()
        case "a dangling link":
            path.symlink_to("nowhere")
        case _:
            create(path)
    before = os.lstat(path).st_ino, listing(path) if path.is_dir() else None

    with pytest.raises(IssuingRefused, match="exists already"):
        create(path)

    assert before == (os.lstat(path).st_ino, listing(path) if path.is_dir() else None)


@pytest.mark.parametrize("empty", [False, True])
def test_a_failure_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    """An identity appears whole or not at all, so that the same command can be given again."""
    path = tmp_path / "identity"
    if empty:
        path.mkdir()
    real = issuer.issue_leaf

    def fail(*arguments: object, **keywords: object) -> Path:
        raise FileRefused(path, "cannot be written: the disk is full")

    monkeypatch.setattr(issuer, "issue_leaf", fail)
    with pytest.raises(FileRefused, match="disk is full"):
        create(path)
    monkeypatch.setattr(issuer, "issue_leaf", real)

    assert list(tmp_path.iterdir()) == []
    create(path)


# Adding a domain


def test_adding_a_domain_keeps_the_id_and_the_keys(identity: IdentityDirectory) -> None:
    """Root and issuing certificates are new, their keys are not, and old leaves are still good."""
    tunnel, before = identity.tunnel_id(), {p: p.read_bytes() for p in identity.path.glob("*.key")}
    link = identity.link("gw1")

    add_domains(identity, ["b.test"], now=NOW)

    assert identity.tunnel_id() == tunnel
    assert identity.domains() == (DOMAIN, "b.test")
    assert {p: p.read_bytes() for p in identity.path.glob("*.key")} == before
    verify_leaf_file(link, root=identity.root_certificate(), role=Role.LINK, label=tunnel.label, now=NOW)


def test_after_adding_a_domain_check_names_what_to_issue_again(identity: IdentityDirectory) -> None:
    """The gateway's certificate lacks the new names until it is replaced, and check says how."""
    add_domains(identity, ["b.test"], now=NOW)

    bad = [finding for finding in check_directory(identity.path, now=NOW) if not finding.is_good]
    assert [(f.path, f.rule) for f in bad] == [("gateway/gw1.pem", "dns-names")]
    assert bad[0].hint == "once all callers have new bundles: sallyport certs issue gateway gw1 --replace"

    issue_leaf(identity, Role.GATEWAY, "gw1", now=NOW, replace=True)
    assert all(finding.is_good for finding in check_directory(identity.path, now=NOW))
    assert issue_caller(identity, "alice", domain="b.test", now=NOW).exists()


def test_after_adding_a_domain_check_names_the_bundles_to_issue_first(identity: IdentityDirectory) -> None:
    """A bundle from before would refuse the gateway's new certificate: check says so while it still works."""
    issue_caller(identity, "alice", domain=None, now=NOW)
    add_domains(identity, ["b.test"], now=NOW)

    found = {finding.path: finding for finding in check_directory(identity.path, now=NOW)}
    bundle = found["callers/alice.bundle.pem"]
    assert bundle.rule == "name-constraints"
    assert "is from before b.test was added" in bundle.problem
    assert bundle.hint.endswith(f"certs issue caller alice --replace --domain {DOMAIN}")

    issue_caller(identity, "alice", domain=DOMAIN, now=NOW, replace=True)
    found = {finding.path: finding for finding in check_directory(identity.path, now=NOW)}
    assert found["callers/alice.bundle.pem"].is_good


def test_new_bundles_first_then_new_gateways_breaks_nobody(identity: IdentityDirectory) -> None:
    """The order that ``certs init`` prints: at each step those who have done theirs can call."""
    old_root, old = identity.root_certificate(), issued_bundle(identity, "old")
    add_domains(identity, ["b.test"], now=NOW)
    new_root, new = identity.root_certificate(), issued_bundle(identity, "new")

    # The gateway's certificate is the old one, and the gateway may still run with the old root.
    for root in (old_root, new_root):
        assert call(identity, old, root=root) is None
        assert call(identity, new, root=root) is None

    issue_leaf(identity, Role.GATEWAY, "gw1", now=NOW, replace=True)
    assert call(identity, new, root=new_root) is None
    assert call(identity, new, root=new_root, domain="b.test") is None


def test_new_gateways_first_breaks_callers_with_old_bundles(identity: IdentityDirectory) -> None:
    """Why there is an order: the old root's constraints refuse the names under the new domain."""
    old = issued_bundle(identity, "old")
    add_domains(identity, ["b.test"], now=NOW)
    issue_leaf(identity, Role.GATEWAY, "gw1", now=NOW, replace=True)

    error = call(identity, old, root=identity.root_certificate())

    assert error is not None
    assert "permitted subtree violation" in str(error)


def issued_bundle(directory: IdentityDirectory, name: str) -> Bundle:
    """Issue a caller's bundle and load it."""
    return Bundle.load(issue_caller(directory, name, domain=None, now=NOW))


def call(
    directory: IdentityDirectory, bundle: Bundle, *, root: x509.Certificate, domain: str = DOMAIN
) -> ssl.SSLError | None:
    """Let a caller meet the gateway, which has this root; both judge each other. Return what went wrong."""
    label = directory.tunnel_id().label
    server, client = door_context(directory.gateway("gw1"), root), caller_context(bundle)
    done = shake_hands(server, client, tunnel_host(label, domain))
    if done.error is None:
        verify_identity(verified_chain(done.client), role=Role.GATEWAY, label=label, now=NOW)
        verify_identity(verified_chain(done.server), role=Role.CALLER, label=label, now=NOW)
    return done.error


def test_adding_a_domain_needs_the_root_key(identity: IdentityDirectory) -> None:
    """The one command that needs the root key says so where it was taken away."""
    identity.root_key_path.rename(identity.path.parent / "root.key")

    with pytest.raises(FileRefused, match=r"root\.key is not there") as refused:
        add_domains(identity, ["b.test"], now=NOW)

    assert "bring the root key back" in refused.value.hint
    assert identity.domains() == (DOMAIN,)


def test_adding_a_domain_with_another_root_key_changes_nothing(
    identity: IdentityDirectory, tmp_path: Path
) -> None:
    """A wrong key would make another tunnel."""
    other = create(tmp_path / "other")
    identity.root_key_path.write_bytes(other.root_key_path.read_bytes())

    with pytest.raises(CertificateRefused, match="does not belong to the key"):
        add_domains(identity, ["b.test"], now=NOW)

    assert identity.domains() == (DOMAIN,)


# Refusals


def test_replaces_a_leaf_only_when_told(identity: IdentityDirectory) -> None:
    """The certificate and key in use are not replaced by accident."""
    files = identity.gateway("gw1")
    before = files.certificate.read_bytes(), files.key.read_bytes()

    with pytest.raises(IssuingRefused, match=r"gw1.pem exists already") as refused:
        issue_leaf(identity, Role.GATEWAY, "gw1", now=NOW)

    assert refused.value.hint == "to replace it: sallyport certs issue gateway gw1 --replace"
    assert before == (files.certificate.read_bytes(), files.key.read_bytes())
    issue_leaf(identity, Role.GATEWAY, "gw1", now=NOW, replace=True)
    assert before[1] != files.key.read_bytes()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "-", "x" * 64, "a\n"])
def test_refuses_names_that_lead_out_of_the_directory(identity: IdentityDirectory, name: str) -> None:
    """A name is judged before it becomes part of a path."""
    for attempt in (
        lambda: issue_leaf(identity, Role.LINK, name, now=NOW),
        lambda: issue_caller(identity, name, domain=None, now=NOW),
    ):
        with pytest.raises(NameRefused):
            attempt()


def test_refuses_a_domain_that_the_tunnel_does_not_have(identity: IdentityDirectory) -> None:
    """A bundle for a foreign domain could reach nobody."""
    with pytest.raises(IssuingRefused, match=r"no domain b\.test, only tunnel\.test"):
        issue_caller(identity, "alice", domain="b.test", now=NOW)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not say where the relay is"),
        ("", "has no `relay:`"),
        ("relay: 7", "has no `relay:`"),
        ("- relay", "has no `relay:`"),
        ("relay: [", "is not YAML"),
        ("relay: https://x", "relay address"),
    ],
)
def test_a_bundle_needs_the_relays_address(
    identity: IdentityDirectory, content: str | None, reason: str
) -> None:
    """What is wrong with identity.yaml is said when it is needed."""
    identity.settings_path.unlink()
    if content is not None:
        identity.settings_path.write_text(content)

    with pytest.raises(CertificateError, match=reason):
        issue_caller(identity, "alice", domain=None, now=NOW)


@pytest.mark.parametrize("missing", ["callers.key", "callers.pem"])
def test_issues_nothing_where_the_issuing_ca_is_not(identity: IdentityDirectory, missing: str) -> None:
    """A gateway's host may hold leaves only."""
    (identity.path / missing).unlink()

    with pytest.raises(FileRefused, match=f"{missing} is not there, so nothing can be issued here"):
        issue_caller(identity, "alice", domain=None, now=NOW)


def test_issues_nothing_from_an_issuing_ca_that_is_over(identity: IdentityDirectory) -> None:
    """An expired CA is named, and no file is written."""
    with pytest.raises(CertificateRefused, match="issuing CA callers expired on"):
        issue_caller(identity, "alice", domain=None, now=NOW + timedelta(days=366))

    assert list((identity.path / "callers").iterdir()) == []


def test_issues_nothing_under_another_tunnels_issuing_ca(identity: IdentityDirectory, tmp_path: Path) -> None:
    """What would be issued is judged before it is written."""
    other = Tunnel.make()
    theirs = write_leaf(tmp_path, (other.callers.certificate,), other.callers.key)
    ours = identity.issuing("callers")
    theirs.certificate.replace(ours.certificate)
    theirs.key.replace(ours.key)

    with pytest.raises(CertificateRefused, match="issuing CA callers was signed neither"):
        issue_caller(identity, "alice", domain=None, now=NOW)


def test_a_directory_without_a_root_says_how_to_make_one(tmp_path: Path) -> None:
    """Every command on a wrong directory ends in the same advice."""
    with pytest.raises(FileRefused, match=r"holds no root\.pem") as refused:
        issue_leaf(IdentityDirectory(tmp_path), Role.LINK, "gw1", now=NOW)

    assert "certs init" in refused.value.hint


def test_a_root_of_something_else_has_no_domains(tmp_path: Path) -> None:
    """A root.pem that is no tunnel's root is refused when its domains are asked for."""
    files = write_leaf(tmp_path, *Tunnel.make().leaf(Role.CALLER, "alice"))
    files.certificate.replace(tmp_path / "root.pem")

    with pytest.raises(FileRefused, match="is not a tunnel's root"):
        IdentityDirectory(tmp_path).domains()


def test_a_late_leaf_ends_with_its_issuer(identity: IdentityDirectory) -> None:
    """A leaf issued in an issuing CA's last days is short-lived, and good until its end."""
    late = NOW + 364 * DAY

    path = issue_caller(identity, "alice", domain=None, now=late)

    leaf = Bundle.load(path).leaf
    assert leaf.not_valid_after_utc == identity.issuing("callers").load_presented()[0].not_valid_after_utc


def test_storage_is_what_writes_keys(identity: IdentityDirectory) -> None:
    """No key in the directory is wider than ``storage`` makes one."""
    for key in identity.path.rglob("*.key"):
        storage.read_private(key)
