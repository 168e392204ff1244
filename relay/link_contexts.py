"""
The relay's TLS contexts for links: one per tunnel, made before the handshake from the SNI's label.

Each trusts one root, its tunnel's. With all roots in one store, another tenant's root that copies the
victim's Subject and key identifier makes the victim's chain fail, and any root could vouch for any label;
with one store each, a tenant cannot touch another one's handshakes (identity §4).

A context is kept until what it was made of changes: the tunnel's root in the database, or the relay's own
certificate and key on disk, which may be renewed under a running relay. Files that cannot be used (half
written, say) change nothing: the contexts that are there go on, and the log says why.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Final

import structlog
from anyio import to_thread
from cryptography import x509

from sallyport.certs.contexts import link_server_context
from sallyport.certs.errors import CertificateError
from sallyport.certs.facts import read_facts
from sallyport.certs.files import LeafFiles, Stamp, stamp
from sallyport.relay.registry import Tunnel
from sallyport.tunnel.limits import limit

log = structlog.get_logger("sallyport.relay")

_CONTEXTS_KEPT: Final = limit(
    1024, "contexts",
    "TLS contexts kept, about 50 KiB each. A tunnel whose context was dropped pays a millisecond for a "
    "new one",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Made:
    """
    A context, and what it was made of.
    """

    context: SSLContext
    root_pem: str
    stamp: Stamp


class LinkContexts:
    """
    Makes and keeps the contexts.

    Args:
        certificate: the relay's certificate and what stands between it and its CA.
        key: the relay's key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = LeafFiles(certificate, key)
        self._made: OrderedDict[str, _Made] = OrderedDict()
        self._reported: Stamp | None = None
        self._loaded: Stamp | None = None

    def certificate(self) -> x509.Certificate:
        """
        Read the relay's own certificate; for start-up and for /readyz.

        Raises:
            CertificateError: the files cannot be used.
        """
        self._files.load_key()
        return self._files.load_presented()[0]

    async def context(self, tunnel: Tunnel) -> SSLContext:
        """
        Give the context for a tunnel's links.

        Raises:
            CertificateError: the relay's files cannot be used, and no earlier context is there either.
        """
        kept = self._made.get(tunnel.label)
        version = stamp((self._files.certificate, self._files.key))
        if kept is not None and kept.root_pem == tunnel.root_pem:
            self._made.move_to_end(tunnel.label)
            if kept.stamp == version:
                return kept.context
        else:
            kept = None
        try:
            # In a thread: it reads files and parses keys, and links come in storms.
            context, certificate = await to_thread.run_sync(self._make, tunnel.root_pem)
        except CertificateError as error:
            if kept is None:
                raise
            self._report(version, error)
            return kept.context
        self._note_loaded(version, certificate)
        self._made[tunnel.label] = _Made(context, tunnel.root_pem, version)
        if len(self._made) > _CONTEXTS_KEPT:
            self._made.popitem(last=False)
        return context

    def _make(self, root_pem: str) -> tuple[SSLContext, x509.Certificate]:
        root = x509.load_pem_x509_certificate(root_pem.encode())
        context = link_server_context(self._files.certificate, self._files.key, root)
        return context, self._files.load_presented()[0]

    def _note_loaded(self, version: Stamp, certificate: x509.Certificate) -> None:
        # Each tunnel has a context of its own, and the first of them that has the new files says so.
        if version != self._loaded:
            self._loaded = version
            log.info(
                "certificate loaded",
                certificate="relay",
                serial=read_facts(certificate).full_serial,
                not_after=certificate.not_valid_after_utc.isoformat(),
            )

    def _report(self, version: Stamp, error: CertificateError) -> None:
        if version != self._reported:
            self._reported = version
            log.error("new certificate files not taken", reason=str(error), hint=error.hint)
