"""Leaves replaced under their readers: whole pairs at every moment, whatever fails, and new keys."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from sallyport.certs.bundle import Bundle
from sallyport.certs.check import check_directory
from sallyport.certs.errors import CertificateError, CertificateRefused, FileRefused, IssuingRefused, Rule
from sallyport.certs.files import IdentityDirectory, LeafFiles
from sallyport.certs.inventory import list_entries
from sallyport.certs.issuer import create_identity, issue_caller, issue_leaf
from sallyport.certs.names import Role
from sallyport.certs.rotation import Advice, Rotated, renew, rotate, rotate_all
from sallyport.certs.verify import verify_bundle, verify_leaf_file
from tests.certs.certificate_kit import DAY, DOMAIN, NOW, damage_key

MONTH = timedelta(days=30)


class Crash(BaseException):
    """The power goes off: nothing catches it."""


@pytest.fixture
def identity(tmp_path: Path) -> IdentityDirectory:
    """Make an identity with a gateway gw1 and a caller alice under its second domain."""
    made = create_identity(
        tmp_path / "identity", domains=(DOMAIN, "b.test"), relay="relay.test:443", name="gw1", now=NOW
    )
    issue_caller(made, "alice", domain="b.test", now=NOW)
    return made


def judge(identity: IdentityDirectory, role: Role = Role.GATEWAY) -> None:
    """Hold gw1's files to what a start of the gateway demands of them."""
    verify_leaf_file(
        identity.leaf(role, "gw1"),
        root=identity.root_certificate(),
        role=role,
        label=identity.tunnel_id().label,
        now=NOW + DAY,
    )


@contextmanager
def watched_writes(monkeypatch: pytest.MonkeyPatch, step: Callable[[int], None]) -> Iterator[None]:
    """Call ``step`` with a running number before everything that changes the disk for good."""
    count = iter(range(1_000_000))
    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "replace"):
            real = getattr(os, name)

            def watched(*arguments: object, real: Callable[..., object] = real, **keywords: object) -> object:
                writes = real is not open_ or bool(int(str(arguments[1])) & os.O_CREAT)
                if writes:
                    step(next(count))
                return real(*arguments, **keywords)

            patch.setattr(os, name, watched)
        yield


open_ = os.open


def count_steps(identity: IdentityDirectory, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count the steps of one rotation."""
    steps: list[int] = []
    with watched_writes(monkeypatch, steps.append):
        rotate(identity, Role.GATEWAY, "gw1", now=NOW)
    return len(steps)


def fail_at(
    monkeypatch: pytest.MonkeyPatch, identity: IdentityDirectory, at: int, error: BaseException
) -> None:
    """Begin a rotation that ends with ``error`` at one of its steps."""

    def step(number: int) -> None:
        if number == at:
            raise error

    with watched_writes(monkeypatch, step), pytest.raises((Crash, FileRefused)):
        rotate(identity, Role.GATEWAY, "gw1", now=NOW)


@pytest.mark.parametrize("error", [Crash(), OSError(28, "No space left on device")], ids=["crash", "full"])
def test_a_failure_at_any_write_leaves_a_usable_pair(
    identity: IdentityDirectory, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Also when the next attempt fails as well, at any write of its own; then the command simply works."""
    steps = count_steps(identity, monkeypatch)
    assert steps > 6

    for first in range(steps):
        for second in range(steps):
            fail_at(monkeypatch, identity, first, error)
            judge(identity)
            # An attempt after a failure may have one step more: it finishes what the first one began.
            fail_at(monkeypatch, identity, second, error)
            judge(identity)
    rotate(identity, Role.GATEWAY, "gw1", now=NOW)

    judge(identity)
    names = {path.name for path in (identity.path / "gateway").iterdir()}
    assert names == {"gw1.pem", "gw1.key"}


def test_a_reader_finds_a_pair_between_any_two_writes(
    identity: IdentityDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the old one, then the new one, and nothing else."""
    files = identity.gateway("gw1")
    seen: list[int] = []

    with watched_writes(monkeypatch, lambda _: seen.append(files.load().presented[0].serial_number)):
        rotate(identity, Role.GATEWAY, "gw1", now=NOW)

    new = files.load().presented[0].serial_number
    changes = seen.index(new)
    assert set(seen[:changes]) == {seen[0]} != {new}
    assert set(seen[changes:]) == {new}


def test_a_reader_that_is_overtaken_looks_again(
    identity: IdentityDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole rotation between the read of the certificate and that of the key does no harm."""
    files, real, overtaken = identity.gateway("gw1"), LeafFiles.load_presented, []

    def load_presented(self: LeafFiles) -> object:
        presented = real(self)
        if not overtaken:
            overtaken.append(presented[0].serial_number)
            rotate(identity, Role.GATEWAY, "gw1", now=NOW)
        return presented

    monkeypatch.setattr(LeafFiles, "load_presented", load_presented)

    assert files.load().presented[0].serial_number != overtaken[0]


def test_a_key_that_fits_nothing_is_named(identity: IdentityDirectory) -> None:
    """A waiting key is no way around the rule: with two wrong ones the pair is refused."""
    files = identity.gateway("gw1")
    for path in (files.key, files.next_key):
        path.write_bytes(identity.link("gw1").key.read_bytes())
        path.chmod(0o600)

    with pytest.raises(CertificateRefused) as refused:
        files.load()

    assert refused.value.rule is Rule.KEY_MISMATCH


@pytest.mark.platform("linux", "darwin")
def test_a_waiting_key_must_be_private_as_well(identity: IdentityDirectory) -> None:
    """Others could use it, too."""
    files = identity.gateway("gw1")
    files.key.rename(files.next_key)
    files.next_key.chmod(0o644)

    with pytest.raises(FileRefused, match="mode 0644"):
        files.load()


@pytest.mark.parametrize("role", [Role.GATEWAY, Role.LINK])
def test_a_rotated_leaf_is_new_and_good(identity: IdentityDirectory, role: Role) -> None:
    """New key, new serial, same name; the key is 0600."""
    files = identity.leaf(role, "gw1")
    before = files.load()

    done = rotate(identity, role, "gw1", now=NOW + DAY)

    after = files.load()
    assert done.was == f"{before.presented[0].serial_number:x}"
    assert done.facts.certificate == after.presented[0]
    assert after.key.public_key() != before.key.public_key()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    judge(identity, role)


def test_a_rotated_bundle_keeps_its_domain(identity: IdentityDirectory) -> None:
    """The caller goes on calling under the names that it knows."""
    path = identity.caller_bundle("alice")
    before = Bundle.load(path)

    done = rotate(identity, Role.CALLER, "alice", now=NOW + DAY)

    after = Bundle.load(path)
    assert (after.domain, after.relay) == ("b.test", before.relay)
    assert after.leaf.serial_number != before.leaf.serial_number
    assert verify_bundle(after, now=NOW + DAY).name == "alice"
    assert done.is_bundle


def test_rotating_all_means_gateways_and_links(identity: IdentityDirectory) -> None:
    """Every gateway's, and no caller's, which would have to be handed over."""
    issue_leaf(identity, Role.LINK, "gw2", now=NOW)

    done = list(rotate_all(identity, now=NOW + DAY))

    assert [each.facts.title for each in done] == [
        "gateway certificate gw1",
        "link certificate gw1",
        "link certificate gw2",
    ]
    assert all(finding.is_good for finding in check_directory(identity.path, now=NOW + DAY))


@pytest.mark.parametrize("role", list(Role))
def test_what_is_not_there_cannot_be_rotated(identity: IdentityDirectory, role: Role) -> None:
    """A slip of the pen makes no new identity; the command that would is in the hint."""
    with pytest.raises(IssuingRefused, match=f"there is no {role} bob") as refused:
        rotate(identity, role, "bob", now=NOW)

    assert refused.value.hint == f"issue it: sallyport certs issue {role} bob"


def test_a_broken_leaf_can_be_rotated(identity: IdentityDirectory) -> None:
    """What cannot be read is replaced; nobody knows which serial it had."""
    identity.gateway("gw1").certificate.write_text("half a certificate")

    done = rotate(identity, Role.GATEWAY, "gw1", now=NOW)

    assert done.was == ""
    judge(identity)


def test_a_rotation_without_the_issuing_key_changes_nothing(identity: IdentityDirectory) -> None:
    """A gateway's host may hold leaves only."""
    identity.issuing("gateways").key.unlink()
    before = identity.gateway("gw1").certificate.read_bytes()

    with pytest.raises(CertificateError, match="nothing can be issued here"):
        rotate(identity, Role.GATEWAY, "gw1", now=NOW)

    assert identity.gateway("gw1").certificate.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_what_root_renews_stays_the_gateways(identity: IdentityDirectory) -> None:
    """``sudo certs renew`` must not take the key away from the gateway's own user."""
    files = identity.gateway("gw1")
    for path in (files.certificate.parent, files.certificate, files.key):
        os.chown(path, 12345, 12345)

    rotate(identity, Role.GATEWAY, "gw1", now=NOW)

    assert {path.stat().st_uid for path in (files.certificate, files.key)} == {12345}


# Renewing


def test_nothing_is_renewed_before_its_time(identity: IdentityDirectory) -> None:
    """On the day after, nothing is due."""
    assert list(renew(identity, before=MONTH, now=NOW + DAY)) == []


def test_what_ends_soon_is_renewed_and_nothing_else(identity: IdentityDirectory) -> None:
    """Callers included; a second run finds nothing to do."""
    later = NOW + 61 * DAY
    rotate(identity, Role.LINK, "gw1", now=NOW + 40 * DAY)

    done = list(renew(identity, before=MONTH, now=later))

    assert all(isinstance(each, Rotated) for each in done)
    titles = [each.facts.title for each in done if isinstance(each, Rotated)]
    assert titles == ["gateway certificate gw1", "caller certificate alice"]
    assert list(renew(identity, before=MONTH, now=later)) == []


def test_an_issuing_ca_at_two_thirds_is_advice(identity: IdentityDirectory) -> None:
    """Both are named, with the date and what will be needed."""
    done = list(renew(identity, before=MONTH, now=NOW + 250 * DAY))

    advice = [each for each in done if isinstance(each, Advice)]
    assert [each.path.name for each in advice] == ["gateways.pem", "callers.pem"]
    assert all("two thirds" in each.what and "root.key" in each.remedy for each in advice)
    assert len(done) == 5, "the leaves are renewed all the same"


def test_a_leaf_that_cannot_be_bettered_is_left_alone(identity: IdentityDirectory) -> None:
    """Once it ends with its issuing CA, renewing it every day would change nothing but the key."""
    last_days = NOW + 350 * DAY
    first = list(renew(identity, before=MONTH, now=last_days))
    assert sum(isinstance(each, Rotated) for each in first) == 3

    again = list(renew(identity, before=MONTH, now=last_days + DAY))

    assert all(isinstance(each, Advice) for each in again)
    assert sum("ends with the issuing CA" in each.what for each in again if isinstance(each, Advice)) == 3


def test_a_broken_file_hides_nothing(identity: IdentityDirectory) -> None:
    """It is told, and the others are renewed."""
    identity.gateway("gw1").certificate.write_text("half a certificate")

    done = list(renew(identity, before=MONTH, now=NOW + 61 * DAY))

    assert [type(each) for each in done] == [Advice, Rotated, Rotated]
    assert isinstance(done[0], Advice)
    assert done[0].is_failure


def test_a_damaged_key_hides_nothing(identity: IdentityDirectory) -> None:
    """One flipped bit in the middle of a certificate that is whole in every other way."""
    damage_key(identity.gateway("gw1").certificate)
    damage_key(identity.caller_bundle("alice"))

    problems = {entry.kind: entry.problem for entry in list_entries(identity)}
    done = list(renew(identity, before=MONTH, now=NOW + 61 * DAY))

    assert "key cannot be read" in problems["gateway"]
    assert "key cannot be read" in problems["caller"]
    assert [type(each) for each in done] == [Advice, Rotated, Advice]
    rotate(identity, Role.GATEWAY, "gw1", now=NOW)
    judge(identity)


def test_a_file_that_is_nobodys_stops_nothing(identity: IdentityDirectory) -> None:
    """A copy that somebody has made is named, each time, and what stands behind it is renewed."""
    strays = [
        identity.path / "gateway" / "gw1 copy.pem",
        identity.path / "link" / "GW1.pem",
        identity.path / "callers" / "alice (1).bundle.pem",
    ]
    for stray in strays:
        stray.write_bytes(identity.gateway("gw1").certificate.read_bytes())

    done = list(renew(identity, before=MONTH, now=NOW + 61 * DAY))

    assert [type(each) for each in done] == [Rotated] * 3 + [Advice] * 3
    advice = [each for each in done if isinstance(each, Advice)]
    assert sorted(each.path for each in advice) == sorted(strays)
    assert all(each.is_failure and str(each.path) in each.what and each.remedy for each in advice)
    assert [type(each) for each in rotate_all(identity, now=NOW + 61 * DAY)] == [Rotated] * 2
    assert all(stray.exists() for stray in strays)


def test_a_key_that_is_elsewhere_stops_only_what_needs_it(identity: IdentityDirectory) -> None:
    """The two issuing CAs may live apart: on each host the other one's leaves are somebody else's work."""
    identity.issuing("gateways").key.unlink()

    done = list(renew(identity, before=MONTH, now=NOW + 61 * DAY))

    assert [type(each) for each in done] == [Advice, Advice, Rotated]
    for each, role in zip(done, ("gateway", "link"), strict=False):
        assert isinstance(each, Advice)
        assert each.is_failure
        assert each.what.startswith(f"the {role} certificate gw1 was not replaced: ")
        assert each.remedy
    assert all(isinstance(each, Advice) for each in rotate_all(identity, now=NOW + 61 * DAY))
