"""``certs check``: every file judged, every fault named, none hidden by another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sallyport.certs.authority import new_key
from sallyport.certs.check import Finding, check_directory
from sallyport.certs.errors import FileRefused
from sallyport.certs.files import IdentityDirectory
from sallyport.certs.issuer import create_identity, issue_caller
from sallyport.certs.pem import encode_key
from sallyport.certs.storage import write_private, write_public
from tests.certs.certificate_kit import DAY, DOMAIN, NOW


def create(path: Path) -> IdentityDirectory:
    """Make an identity with a gateway and a caller."""
    made = create_identity(path, domains=[DOMAIN], relay="relay.test:443", name="gw1", now=NOW)
    issue_caller(made, "alice", domain=None, now=NOW)
    return made


@pytest.fixture
def identity(tmp_path: Path) -> IdentityDirectory:
    """Make an identity in a temporary folder."""
    return create(tmp_path / "identity")


def bad(path: Path, *, later: bool = False) -> dict[str, Finding]:
    """Check a directory; return what is wrong, by file."""
    now = NOW + 91 * DAY if later else NOW
    return {finding.path: finding for finding in check_directory(path, now=now) if not finding.is_good}


def test_lists_every_file_of_a_good_identity(identity: IdentityDirectory) -> None:
    """Each certificate, key and bundle has its line, with the days that are left."""
    findings = {finding.path: finding for finding in check_directory(identity.path, now=NOW)}

    assert list(findings) == [
        *(
            "root.pem",
            "root.key",
            "identity.yaml",
            "gateways.pem",
            "gateways.key",
            "callers.pem",
            "callers.key",
        ),
        *("gateway/gw1.pem", "link/gw1.pem", "callers/alice.bundle.pem"),
    ]
    assert all(finding.is_good for finding in findings.values())
    assert findings["gateways.pem"].days_left == 365
    assert findings["link/gw1.pem"].days_left == 90
    assert findings["root.key"].days_left is None


def test_keys_that_were_taken_away_are_not_missed(identity: IdentityDirectory) -> None:
    """A host with leaves only, or without the root key, is in order."""
    for name in ("root.key", "gateways.key", "gateways.pem", "callers.key", "callers.pem"):
        (identity.path / name).unlink()

    assert bad(identity.path) == {}


def _swap(path: Path) -> None:
    write_private(path, encode_key(new_key()))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


SPOILS: dict[str, tuple[str, Callable[[Path], None], str, str, str]] = {
    "wide root key": ("root.key", lambda p: p.chmod(0o640), "root.key", "", "mode 0640"),
    "wide issuing key": ("callers.key", lambda p: p.chmod(0o644), "callers.key", "", "mode 0644"),
    "wide leaf key": ("link/gw1.key", lambda p: p.chmod(0o604), "link/gw1.pem", "", "mode 0604"),
    "wide bundle": (
        "callers/alice.bundle.pem",
        lambda p: p.chmod(0o644),
        "callers/alice.bundle.pem",
        "",
        "mode 0644",
    ),
    "another root key": ("root.key", _swap, "root.key", "key-mismatch", "does not belong to the key"),
    "another issuing key": ("gateways.key", _swap, "gateways.key", "key-mismatch", "issuing CA gateways"),
    "another leaf key": (
        "gateway/gw1.key",
        _swap,
        "gateway/gw1.pem",
        "key-mismatch",
        "gateway certificate gw1",
    ),
    "cut bundle": ("callers/alice.bundle.pem", _cut, "callers/alice.bundle.pem", "", "ends in the middle"),
    "cut leaf": ("link/gw1.pem", _cut, "link/gw1.pem", "", "ends in the middle"),
    "no leaf key": ("link/gw1.key", Path.unlink, "link/gw1.pem", "", "gw1.key does not exist"),
    "no leaf certificate": ("link/gw1.pem", Path.unlink, "link/gw1.pem", "", "gw1.pem does not exist"),
    "no issuing certificate": ("callers.pem", Path.unlink, "callers.pem", "", "callers.pem does not exist"),
    "bad settings": (
        "identity.yaml",
        lambda p: write_public(p, b"relay: ["),
        "identity.yaml",
        "",
        "is not YAML",
    ),
}


@pytest.mark.parametrize("case", SPOILS)
def test_names_the_file_the_rule_and_the_fault(identity: IdentityDirectory, case: str) -> None:
    """One spoilt file gives its own line, with the remedy, and leaves unrelated ones alone."""
    file, spoil, path, rule, problem = SPOILS[case]
    spoil(identity.path / file)

    found = bad(identity.path)

    assert problem in found[path].problem
    assert found[path].rule == rule
    assert "root.pem" not in found


@pytest.mark.platform("linux", "darwin")
def test_names_directories_that_others_can_enter(identity: IdentityDirectory) -> None:
    """The directory's mode is part of the promise, and the hint is the chmod."""
    identity.path.chmod(0o755)
    (identity.path / "link").chmod(0o770)

    found = bad(identity.path)

    assert set(found) == {".", "link"}
    assert found["link"].hint == f"run: chmod 700 {identity.path / 'link'}"


def test_everything_that_has_expired_is_listed(identity: IdentityDirectory) -> None:
    """One expiry does not hide the next."""
    found = bad(identity.path, later=True)

    assert set(found) == {"gateway/gw1.pem", "link/gw1.pem", "callers/alice.bundle.pem"}
    assert {finding.rule for finding in found.values()} == {"expired"}


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("link/gw1", "gateway/gw2", "role"),
        ("gateway/gw1", "link/gw2", "role"),
        ("link/gw1", "link/gw2", ""),
    ],
)
def test_a_leaf_in_the_wrong_place_is_found(
    identity: IdentityDirectory, source: str, target: str, rule: str
) -> None:
    """A file that was copied under another role or name is not what its place says."""
    for suffix in (".pem", ".key"):
        data = (identity.path / f"{source}{suffix}").read_bytes()
        write_private(identity.path / f"{target}{suffix}", data)

    assert bad(identity.path)[f"{target}.pem"].rule == rule


@pytest.mark.parametrize(
    ("file", "rule"),
    [("gateways.pem", "chain"), ("link/gw1.pem", "key-mismatch"), ("callers/alice.bundle.pem", "anchor")],
)
def test_files_of_another_tunnel_are_found(
    identity: IdentityDirectory, tmp_path: Path, file: str, rule: str
) -> None:
    """What was copied from another identity does not belong."""
    other = create(tmp_path / "other")
    write_private(identity.path / file, (other.path / file).read_bytes())

    assert bad(identity.path)[file].rule == rule


def test_a_foreign_root_condemns_everything(identity: IdentityDirectory, tmp_path: Path) -> None:
    """With another root, nothing below it is this tunnel's any more."""
    other = create(tmp_path / "other")
    identity.root_path.write_bytes(other.root_path.read_bytes())

    found = bad(identity.path)

    assert {"root.key", "gateways.pem", "callers.pem", "gateway/gw1.pem", "link/gw1.pem"} <= set(found)


def test_a_directory_without_a_root_cannot_be_checked(tmp_path: Path) -> None:
    """There is nothing to judge by: the answer is one error."""
    with pytest.raises(FileRefused, match=r"holds no root\.pem"):
        list(check_directory(tmp_path, now=NOW))
