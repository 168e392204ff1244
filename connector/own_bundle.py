"""
The caller's own bundle, taken anew when its file changes, without a restart.

Before each dial the file's time is compared. When it has changed, the new bundle is read, judged by the
strict verifier and made into a TLS context in a worker thread; connections that are open keep what they
have. One that cannot be used (half copied, readable by others, of another tunnel, expired) changes nothing:
the dial goes on with the bundle that is loaded, the log says once why, and the next dial tries again.

Relay and domain stay what they were at the start: an agent was given an endpoint for them.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import anyio.to_thread
import structlog

from sallyport.certs.bundle import Bundle
from sallyport.certs.contexts import caller_context
from sallyport.certs.errors import CertificateError, FileRefused
from sallyport.certs.facts import read_facts
from sallyport.certs.files import Stamp, stamp
from sallyport.certs.verify import verify_bundle

log = structlog.get_logger("sallyport.connector")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What is in effect, and the version of the file that it was made of."""

    bundle: Bundle
    stamp: Stamp
    context: ssl.SSLContext


class OwnBundle:
    """
    Keeps a caller's bundle and the TLS context that is made of it.

    Args:
        bundle: The bundle at the start.
        clock: The time now, with its zone.

    Raises:
        CertificateError: The gateway would refuse it, or its key cannot be used.
    """

    def __init__(self, bundle: Bundle, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._refused: Stamp | None = None
        # Of the time before the context, which reads the key from the file: a file that was changed since
        # the bundle was read has another key by now, and that is an error.
        version = stamp((bundle.path,))
        self.name = verify_bundle(bundle, now=clock()).name
        self._loaded = _Loaded(bundle, version, caller_context(bundle))

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next handshake."""
        return self._loaded.context

    def judge(self) -> None:
        """
        Hold the bundle to every rule that a gateway will.

        Raises:
            CertificateRefused: The gateway would refuse it.
        """
        verify_bundle(self._loaded.bundle, now=self._clock())

    async def refresh(self) -> None:
        """Take the file's bundle if it is another one than the one in effect, and good."""
        version = stamp((self._loaded.bundle.path,))
        if version == self._loaded.stamp:
            return
        try:
            # In a thread: it parses keys, checks signatures and waits for a disk.
            loaded = await anyio.to_thread.run_sync(self._read, version)
        except CertificateError as error:
            if version != self._refused:
                self._refused = version
                log.error("new bundle not taken", reason=str(error), hint=error.hint)
            return
        self._loaded = loaded
        log.info(
            "certificate loaded",
            certificate="caller",
            serial=read_facts(loaded.bundle.leaf).full_serial,
            not_after=loaded.bundle.leaf.not_valid_after_utc.isoformat(),
        )

    def _read(self, version: Stamp) -> _Loaded:
        current = self._loaded.bundle
        bundle = Bundle.load(current.path)
        name = verify_bundle(bundle, now=self._clock()).name
        for what, old, new in (
            ("tunnel", current.tunnel, bundle.tunnel),
            ("caller", self.name, name),
            ("domain", current.domain, bundle.domain),
            ("relay", current.relay, bundle.relay),
        ):
            if old != new:
                raise FileRefused(
                    bundle.path,
                    f"is a bundle for the {what} {new}, and {old} is in use",
                    "restart the connector to use it",
                )
        return _Loaded(bundle, version, caller_context(bundle))
