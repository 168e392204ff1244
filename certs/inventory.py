"""
What is in an identity directory: each certificate with its file, for ``certs status`` and ``certs renew``.

Nothing is judged here: ``check.py`` does that. A file that cannot be read is an entry as well, with the
reason, so that one broken file does not hide the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sallyport.certs.bundle import Bundle
from sallyport.certs.describe import days_left
from sallyport.certs.errors import CertificateError
from sallyport.certs.facts import Facts, read_facts
from sallyport.certs.files import IdentityDirectory, load_certificate, load_certificates
from sallyport.certs.names import Role
from sallyport.certs.profile import Issuing
from sallyport.certs.renewal import outlook
from sallyport.certs.storage import is_present

Value = str | int | bool

STRAY = "stray"
_NO_NAME = "what it is called is no name of a gateway, link or caller"
_STRAY_REMEDY = "move it out of the identity directory, or delete it"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One certificate of the directory.

    ``kind`` is what it is for ("root", "cross", "issuing", "gateway", "link", "caller"; "stray" where the
    file's name does not say), ``name`` whose it is, ``path`` its file. ``facts`` is None where the file
    cannot be read, or is nobody's; ``problem`` and ``hint`` say why.
    """

    kind: str
    name: str
    path: Path
    facts: Facts | None
    problem: str = ""
    hint: str = ""

    def as_json(self, *, now: datetime) -> dict[str, Value]:
        """
        Give the entry as JSON writes it: times in ISO 8601.
        """
        entry: dict[str, Value] = {"kind": self.kind, "name": self.name, "file": str(self.path)}
        if self.facts is None:
            return entry | {"problem": self.problem, "hint": self.hint}
        ahead = outlook(self.facts, now=now)
        return entry | {
            "serial": self.facts.full_serial,
            "not_after": self.facts.not_after.isoformat(),
            "days_left": days_left(self.facts.not_after, now),
            "next": str(ahead.step),
            "due": ahead.due.isoformat(timespec="seconds"),
            "is_due": ahead.is_due,
            "command": ahead.command,
        }


def list_entries(directory: IdentityDirectory) -> Iterator[Entry]:
    """
    List the certificates of an identity directory, from the root down.

    Raises:
        FileRefused: if there is no readable root certificate in it.
    """
    root = read_facts(directory.root_certificate())
    yield Entry("root", str(root.key_id), directory.root_path, root)
    for issuing in Issuing:
        path = directory.issuing(issuing).certificate
        if is_present(path):  # not on a host that has leaves only
            yield _entry("issuing", str(issuing), path)
            yield from _crosses(path)
    for role in (Role.GATEWAY, Role.LINK):
        for name in directory.leaf_names(role):
            yield _entry(str(role), name, directory.path / role / f"{name}.pem")
    for name in directory.caller_names():
        yield _entry(str(Role.CALLER), name, directory.path / "callers" / f"{name}.bundle.pem")
    for path in directory.strays():
        # Not its name, which may be anything.
        yield Entry(STRAY, "", path, None, f"{str(path)!a} is nobody's: {_NO_NAME}", _STRAY_REMEDY)


def _entry(kind: str, name: str, path: Path) -> Entry:
    try:
        certificate = Bundle.load(path).leaf if kind == Role.CALLER else load_certificate(path)
        return Entry(kind, name, path, read_facts(certificate))
    except CertificateError as error:
        return Entry(kind, name, path, None, str(error), error.hint)


def _crosses(path: Path) -> Iterator[Entry]:
    """
    List what stands above an issuing CA in its file: the cross certificate, where the root has a successor.
    """
    try:
        members = [read_facts(certificate) for certificate in load_certificates(path)]
    except CertificateError:
        return  # the entry of the issuing CA itself says why
    for facts in members:
        if facts.is_cross:
            yield Entry("cross", str(facts.key_id), path, facts)
