"""
A whole identity directory through the strict verifier: what ``certs check`` reports.

Every certificate, key and bundle gives one finding, good or bad, and a bad one says which rule failed, for
which certificate, and what to do. One broken file does not hide the next: only a root that cannot be read
ends the check, because everything else is judged by it.
"""

import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography import x509

from sallyport.certs.bundle import Bundle
from sallyport.certs.describe import days_left
from sallyport.certs.errors import CertificateError, CertificateRefused, FileRefused, Rule
from sallyport.certs.facts import Facts, read_facts
from sallyport.certs.files import IdentityDirectory, load_key
from sallyport.certs.names import Role, TunnelId
from sallyport.certs.pem import require_matching_key
from sallyport.certs.profile import Issuing, Scope
from sallyport.certs.storage import DIRECTORY_MODE, is_present
from sallyport.certs.verify import verify_bundle, verify_issuing, verify_leaf_file, verify_root


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What the check says of one file.

    ``path`` is relative to the directory; ``subject`` what the file is; ``problem`` is "" where all is
    well, else what is wrong, with the ``rule`` that failed where it was one of the verifier's and the
    ``hint`` what to do.
    """

    path: str
    subject: str = ""
    days_left: int | None = None
    rule: str = ""
    problem: str = ""
    hint: str = ""

    @property
    def is_good(self) -> bool:
        """
        Whether nothing is wrong with the file.
        """
        return not self.problem

    def as_json(self) -> dict[str, str | int | bool | None]:
        """
        Give the finding as JSON writes it.
        """
        return {"ok": self.is_good, **asdict(self)}


def check_directory(path: Path, *, now: datetime) -> Iterator[Finding]:
    """
    Judge every certificate, key and bundle in an identity directory.

    Args:
        path: the directory.
        now: the time to judge validity by, with a zone.

    Yields:
        One finding for each file, and one for each directory that others can enter.

    Raises:
        FileRefused: if there is no directory, or no readable root certificate in it.
    """
    directory = IdentityDirectory(path)
    check = _Check(directory, directory.root_certificate(), now)
    yield from _wide_directories(path)
    for file, judge in _files(check):
        yield _finding(file, judge, base=path, now=now)


@dataclass(frozen=True, slots=True)
class _Check:
    """
    The judges of one directory: each returns what the file is, or raises what is wrong with it.
    """

    directory: IdentityDirectory
    root: x509.Certificate
    now: datetime

    @property
    def tunnel(self) -> TunnelId:
        return TunnelId.of_root(self.root)

    def root_certificate(self) -> Facts:
        verify_root(self.root, now=self.now)
        return read_facts(self.root)

    def root_key(self) -> str:
        path = self.directory.root_key_path
        require_matching_key(load_key(path), self.root, path=path)
        return "root key"

    def settings(self) -> str:
        return f"relay {self.directory.relay()}"

    def issuing(self, issuing: Issuing) -> Facts:
        files = self.directory.issuing(issuing)
        presented = files.load_presented()
        verify_issuing(presented, root=self.root, issuing=issuing, now=self.now)
        return read_facts(presented[0])

    def issuing_key(self, issuing: Issuing) -> str:
        self.directory.issuing(issuing).load_key()
        return f"key of the issuing CA {issuing}"

    def leaf(self, role: Role, name: str) -> Facts:
        files = self.directory.leaf(role, name)
        identity = verify_leaf_file(files, root=self.root, role=role, label=self.tunnel.label, now=self.now)
        facts = read_facts(files.load_presented()[0])
        if identity.name != name:
            raise FileRefused(
                files.certificate,
                f"holds the {facts.title}",
                f"move it to {role}/{identity.name}.pem, and its key",
            )
        if role is Role.GATEWAY:
            self._require_all_domains(facts, name)
        return facts

    def bundle(self, path: Path) -> Facts:
        bundle = Bundle.load(path)
        if bundle.tunnel != self.tunnel:
            raise read_facts(bundle.leaf).refusal(
                Rule.ANCHOR,
                f"is a bundle of {bundle.tunnel}, not of {self.tunnel}",
                "it does not belong here",
            )
        caller = verify_bundle(bundle, now=self.now)
        self._require_new_root(bundle, caller.name)
        return read_facts(bundle.leaf)

    def _require_new_root(self, bundle: Bundle, name: str) -> None:
        """
        Demand that the bundle's root permits all the tunnel's names: gateways' certificates will have them.
        """
        missing = set(Scope.of(self.root).domains) - set(Scope.of(bundle.root).domains)
        if missing:
            raise read_facts(bundle.root).refusal(
                Rule.NAME_CONSTRAINTS,
                f"in the bundle is from before {min(missing)} was added: this caller will refuse gateways"
                " that have names there",
                "before any gateway's certificate: "
                f"sallyport certs issue caller {name} --replace --domain {bundle.domain}",
            )

    def _require_all_domains(self, leaf: Facts, name: str) -> None:
        missing = set(Scope.of(self.root).gateway_names()) - set(leaf.dns_names)
        if missing:
            raise leaf.refusal(
                Rule.DNS_NAMES,
                f"lacks the DNS name {min(missing)}",
                f"once all callers have new bundles: sallyport certs issue gateway {name} --replace",
            )


_Judge = Callable[[], Facts | str]


def _files(check: _Check) -> Iterator[tuple[Path, _Judge]]:
    """
    Pair each file that is there, or must be, with its judge.
    """
    directory = check.directory
    yield directory.root_path, check.root_certificate
    if is_present(directory.root_key_path):
        yield directory.root_key_path, check.root_key
    if is_present(directory.settings_path):
        yield directory.settings_path, check.settings
    for issuing in Issuing:
        files = directory.issuing(issuing)
        if is_present(files.certificate) or is_present(files.key):
            yield files.certificate, partial(check.issuing, issuing)
        if is_present(files.key):  # not on a host that has leaves only
            yield files.key, partial(check.issuing_key, issuing)
    for role in (Role.GATEWAY, Role.LINK):
        folder = directory.path / role
        for name in sorted({file.stem for file in folder.glob("*") if file.suffix in (".pem", ".key")}):
            yield folder / f"{name}.pem", partial(check.leaf, role, name)
    for bundle in sorted((directory.path / "callers").glob("*.pem")):
        yield bundle, partial(check.bundle, bundle)


def _finding(path: Path, judge: _Judge, *, base: Path, now: datetime) -> Finding:
    where = str(path.relative_to(base))
    try:
        subject = judge()
    except CertificateError as error:
        rule = str(error.rule) if isinstance(error, CertificateRefused) else ""
        return Finding(where, rule=rule, problem=str(error), hint=error.hint)
    if isinstance(subject, str):
        return Finding(where, subject)
    return Finding(where, subject.title, days_left(subject.not_after, now))


def _wide_directories(path: Path) -> Iterator[Finding]:
    if sys.platform == "win32":
        return  # there is no mode to judge: see storage.py
    folders = (path, *(path / name for name in ("gateway", "link", "callers")))
    for folder in folders:
        mode = stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else DIRECTORY_MODE
        if mode & 0o077:
            yield Finding(
                str(folder.relative_to(path)),
                problem=f"{folder} has mode {mode:04o}: others can enter it",
                hint=f"run: chmod 700 {shlex.quote(str(folder))}",
            )
