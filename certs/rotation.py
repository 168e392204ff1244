"""
New leaves in the place of old ones: what ``certs rotate leaf`` and ``certs renew`` do.

A rotated leaf has a new key, a new serial number and a new end, and is otherwise what it was: the name, the
tunnel, for a caller the domain. Whoever holds it takes the new files for its next handshake by itself;
connections that are open are not touched. How the two files change places without a moment in which there
is no pair is in ``files.py``; a bundle is one file.

Rotating issuing CAs and roots, and doing any of it without being asked, are not here yet: what is due and
cannot be done is advice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sallyport.certs.bundle import Bundle
from sallyport.certs.errors import CertificateError, IssuingRefused
from sallyport.certs.facts import Facts, read_facts
from sallyport.certs.files import IdentityDirectory, load_certificate
from sallyport.certs.inventory import Entry, list_entries
from sallyport.certs.issuer import issue_caller, issue_leaf
from sallyport.certs.names import Role
from sallyport.certs.profile import ISSUED_BY
from sallyport.certs.renewal import Step, can_be_bettered, outlook
from sallyport.certs.storage import is_present


@dataclass(frozen=True, slots=True)
class Rotated:
    """
    One leaf that was replaced.

    ``path`` is its file, ``facts`` the new certificate, ``was`` the serial number of the old one, "" where
    that could not be read.
    """

    path: Path
    facts: Facts
    was: str

    @property
    def is_bundle(self) -> bool:
        """
        Whether the new file has to be brought to its holder.
        """
        return self.facts.identity is not None and self.facts.identity.role is Role.CALLER

    def as_json(self) -> dict[str, str]:
        """
        Give it as JSON writes it.
        """
        return {
            "file": str(self.path),
            "certificate": self.facts.title,
            "serial": self.facts.full_serial,
            "was": self.was,
            "not_after": self.facts.not_after.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """
    Something that is due, or broken, and that renewing cannot mend: what it is, and what to do.

    ``is_failure`` where a leaf was to be replaced, or may have to be, and was not.
    """

    path: Path
    what: str
    remedy: str
    is_failure: bool = False

    def as_json(self) -> dict[str, str | bool]:
        """
        Give it as JSON writes it.
        """
        return {
            "file": str(self.path),
            "advice": self.what,
            "remedy": self.remedy,
            "failed": self.is_failure,
        }


def rotate(directory: IdentityDirectory, role: Role, name: str, *, now: datetime) -> Rotated:
    """
    Replace a leaf that is there by one with a new key.

    Args:
        directory: the issuing directory.
        role: the leaf's role.
        name: the holder's name.
        now: the time, with a zone.

    Raises:
        IssuingRefused: if there is no such leaf.
        CertificateError: as ``issue_leaf`` and ``issue_caller``; the old leaf is then still there, whole.
    """
    if role is Role.CALLER:
        return _rotate_bundle(directory, name, now)
    path = directory.leaf(role, name).certificate
    _require_present(path, role, name)
    was = _serial(path)
    issue_leaf(directory, role, name, now=now, replace=True)
    return Rotated(path, read_facts(load_certificate(path)), was)


def rotate_all(directory: IdentityDirectory, *, now: datetime) -> Iterator[Rotated | Advice]:
    """
    Replace every gateway and link leaf of the directory, one after the other; one that fails stops no other.

    Args:
        directory: the issuing directory.
        now: the time, with a zone.

    Raises:
        IssuingRefused: if there is none.
    """
    leaves = [(role, name) for role in (Role.GATEWAY, Role.LINK) for name in directory.leaf_names(role)]
    if not leaves:
        raise IssuingRefused(
            f"{directory.path} holds no leaf of a gateway or link",
            "issue one: sallyport certs issue gateway NAME",
        )
    for role, name in leaves:
        yield _attempt(directory, role, name, directory.leaf(role, name).certificate, now=now)


def renew(directory: IdentityDirectory, *, before: timedelta, now: datetime) -> Iterator[Rotated | Advice]:
    """
    Replace every leaf that ends soon, bundles included, and say what else is due.

    A timer runs this, and nobody looks: what fails is said and stops nothing else.

    Args:
        directory: the issuing directory.
        before: how long before its end a leaf is replaced.
        now: the time, with a zone.

    Raises:
        FileRefused: if there is no readable root certificate in it.
    """
    entries = list(list_entries(directory))
    issuers = {entry.name: entry.facts for entry in entries if entry.kind == "issuing"}
    for entry in entries:
        if entry.facts is None:
            yield Advice(entry.path, entry.problem, entry.hint, is_failure=True)
            continue
        ahead = outlook(entry.facts, now=now, before=before)
        if not ahead.is_due:
            continue
        if ahead.step is not Step.RENEW:
            yield Advice(entry.path, *_advice(entry.facts, ahead.step))
            continue
        role = Role(entry.kind)
        issuer = issuers.get(str(ISSUED_BY[role]))
        if issuer is not None and not can_be_bettered(entry.facts, issuer, now=now):
            yield Advice(entry.path, *_nothing_better(entry, issuer))
            continue
        yield _attempt(directory, role, entry.name, entry.path, now=now)


def _attempt(
    directory: IdentityDirectory, role: Role, name: str, path: Path, *, now: datetime
) -> Rotated | Advice:
    """
    Replace a leaf, or say why it could not be done.
    """
    try:
        return rotate(directory, role, name, now=now)
    except CertificateError as error:
        what = f"the {role} certificate {name} was not replaced: {error}"
        return Advice(path, what, error.hint, is_failure=True)


def _rotate_bundle(directory: IdentityDirectory, name: str, now: datetime) -> Rotated:
    path = directory.caller_bundle(name)
    _require_present(path, Role.CALLER, name)
    old = Bundle.load(path)
    issue_caller(directory, name, domain=old.domain, now=now, replace=True)
    return Rotated(path, read_facts(Bundle.load(path).leaf), read_facts(old.leaf).full_serial)


def _require_present(path: Path, role: Role, name: str) -> None:
    if not is_present(path):
        raise IssuingRefused(
            f"there is no {role} {name}: {path} does not exist",
            f"issue it: sallyport certs issue {role} {name}",
        )


def _serial(path: Path) -> str:
    try:
        return read_facts(load_certificate(path)).full_serial
    except CertificateError:
        return ""  # a broken certificate is a good reason to replace it


def _advice(facts: Facts, step: Step) -> tuple[str, str]:
    end = f"{facts.not_after.astimezone(UTC):%Y-%m-%d}"
    if step is Step.REPLACE_ISSUER:
        return (
            f"the {facts.title} has used two thirds of its life and ends on {end}",
            "no leaf outlives it: before then, have root.key at hand and a version of sallyport that rotates"
            " issuing CAs, which this one does not yet",
        )
    return (
        f"the {facts.title} has used two thirds of its life and ends on {end}",
        "before then it needs a successor, which keeps the tunnel's ID; this version cannot make one yet",
    )


def _nothing_better(entry: Entry, issuer: Facts) -> tuple[str, str]:
    end = f"{issuer.not_after.astimezone(UTC):%Y-%m-%d}"
    what = f"the {entry.kind} certificate {entry.name} ends with the {issuer.title}, on {end}"
    return what, "the issuing CA has to be replaced first"
