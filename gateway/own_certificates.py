"""
The gateway's own two leaves, taken anew when their files change, without a restart.

A look at the files' times every second costs next to nothing. When they have changed, the new pair is read
and held to the strict verifier in a worker thread, and only then takes effect: the door's next handshake
shows the new gateway leaf, the next dial the new link leaf (the uplink reads the files itself). What cannot
be used (half copied, another one's key, not yet valid) changes nothing: what is loaded goes on, one log line
says why, and each further look tries again, since the other half of a copy comes later and so does the time.

A connection that is open has done its handshake and is not touched. The files are read between two looks at
their times that must agree, so that what was verified is what is presented.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import anyio
import anyio.to_thread
import structlog
from cryptography import x509

from sallyport.certs.errors import CertificateError, FileRefused
from sallyport.certs.facts import read_facts
from sallyport.certs.files import LeafFiles, Stamp
from sallyport.certs.names import Role
from sallyport.certs.verify import verify_leaf_file
from sallyport.gateway.door import DoorContexts
from sallyport.gateway.identity import GatewayIdentity, ages_of
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.health import CertificateAge

log = structlog.get_logger("sallyport.gateway")

_LOOK_INTERVAL: Final = limit(
    1.0, "seconds",
    "between two looks at the certificates' files: a new one is shown within two",
)  # fmt: skip

_READS: Final = limit(
    3, "number",
    "reads of the files that may be disturbed by a change before it is the change that is complained of",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What is in effect: the certificates as presented, the version of the files, the door's context."""

    presented: tuple[x509.Certificate, ...]
    stamp: Stamp
    context: DoorContexts | None

    @property
    def not_after(self) -> datetime:
        return self.presented[0].not_valid_after_utc


class OwnCertificates:
    """
    Keeps the leaves of a gateway.

    Args:
        identity: Where the files are, and the root to judge them by.
        make_context: Makes the door's contexts of the gateway leaf's files.
        clock: The time, with a zone.

    Raises:
        CertificateError: The files cannot be used; only at the start is that an error.
    """

    def __init__(
        self,
        identity: GatewayIdentity,
        *,
        make_context: Callable[[], DoorContexts],
        clock: Callable[[], datetime],
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._leaves = (
            _Leaf(Role.GATEWAY, identity.gateway, identity, make_context),
            _Leaf(Role.LINK, identity.link, identity, None),
        )
        for leaf in self._leaves:
            leaf.take(leaf.read(clock()))

    @property
    def door_contexts(self) -> DoorContexts:
        """The contexts for the door's next handshake."""
        context = self._leaves[0].loaded.context
        if context is None:
            raise AssertionError("the gateway leaf is always read with a context")
        return context

    @property
    def problems(self) -> dict[str, str]:
        """Why the newest files of a leaf are not in effect, by its name; empty when they are."""
        return {str(leaf.role): leaf.problem for leaf in self._leaves if leaf.problem}

    async def watch(self, changed: Callable[[DoorContexts], None]) -> None:
        """
        Look at the files until cancelled.

        Args:
            changed: Called with the door's new contexts each time.
        """
        while True:
            await anyio.sleep(_LOOK_INTERVAL)
            await self.look(changed)

    async def look(self, changed: Callable[[DoorContexts], None]) -> None:
        """Look at the files once, and take what has changed; see :meth:`watch`."""
        for leaf in self._leaves:
            now = self._clock()
            leaf.note_time(now)
            # In a thread: it waits for a disk, parses keys and checks signatures.
            loaded = await anyio.to_thread.run_sync(leaf.read_if_changed, now)
            if loaded is not None:
                leaf.take(loaded)
                if loaded.context is not None:
                    changed(loaded.context)

    def ages(self, now: datetime) -> Iterator[CertificateAge]:
        """
        Tell how long what is in effect is still good.

        Args:
            now: The time to count from.
        """
        gateway, link = (leaf.loaded.presented for leaf in self._leaves)
        yield from ages_of(self._identity.root, gateway, link, now=now)


class _Leaf:
    """One leaf: its files, what of them is in effect, and what was said about them."""

    def __init__(
        self,
        role: Role,
        files: LeafFiles,
        identity: GatewayIdentity,
        make_context: Callable[[], DoorContexts] | None,
    ) -> None:
        self.role = role
        self.problem = ""
        self._files = files
        self._identity = identity
        self._make_context = make_context
        self._loaded: _Loaded | None = None
        self._is_expiry_told = False

    @property
    def loaded(self) -> _Loaded:
        if self._loaded is None:
            raise AssertionError("the leaves are read before anybody can ask")
        return self._loaded

    def read(self, now: datetime) -> _Loaded:
        """
        Read the files and hold them to every rule that a peer will.

        Raises:
            CertificateError: They cannot be used, and why.
        """
        for _ in range(_READS):
            stamp = self._files.stamp()
            verify_leaf_file(
                self._files,
                root=self._identity.root,
                role=self.role,
                label=self._identity.tunnel.label,
                now=now,
            )
            context = self._make_context() if self._make_context is not None else None
            presented = self._files.load_presented()
            if self._files.stamp() == stamp:
                return _Loaded(presented, stamp, context)
        raise FileRefused(self._files.certificate, "changes faster than it can be read")

    def read_if_changed(self, now: datetime) -> _Loaded | None:
        """Read the files if they are others than those in effect; None if not, or if they cannot be used."""
        if self._files.stamp() == self.loaded.stamp:
            self.problem = ""
            return None
        try:
            return self.read(now)
        except CertificateError as error:
            if str(error) != self.problem:
                self.problem = str(error)
                log.error(
                    "new certificate files not taken",
                    certificate=str(self.role),
                    reason=self.problem,
                    hint=error.hint,
                )
            return None

    def take(self, loaded: _Loaded) -> None:
        """Put what was read into effect."""
        self._loaded = loaded
        self.problem = ""
        self._is_expiry_told = False
        log.info(
            "certificate loaded",
            certificate=str(self.role),
            serial=read_facts(loaded.presented[0]).full_serial,
            not_after=loaded.not_after.isoformat(),
        )

    def note_time(self, now: datetime) -> None:
        """Say once when what is in effect has expired: links and streams that are up go on, new ones fail."""
        if now > self.loaded.not_after and not self._is_expiry_told:
            self._is_expiry_told = True
            log.error(
                "certificate expired",
                certificate=str(self.role),
                not_after=self.loaded.not_after.isoformat(),
                hint="make new ones: sallyport certs rotate leaf",
            )
