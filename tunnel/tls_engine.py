"""
TLS as an engine over memory buffers: bytes in, bytes out, no socket (style 6).

One engine is one end of one TLS 1.3 connection. The inner layer (caller to gateway) and the outer one
(gateway to relay) both run on it, for three reasons that asyncio's own TLS does not give on Python 3.11:

* an alert that we send on failure really leaves (asyncio drops it, and the peer of a refused certificate
  sees a handshake that succeeded and then an end of file);
* an end of file without close_notify is an error, never a short success (RFC 8446 §6.1);
* one read buffer of the size that is needed, instead of 256 KiB a connection.

How to drive it: ``start`` on the client's side, then for whatever arrives ``receive``. After *every* call,
also after one that raised, write what ``data_to_send`` gives to the network: that is where the alert is.
The engine takes no decision about who the peer is beyond what its context checks; see ``certs.verify``.
"""

import ssl
from typing import Final

from sallyport.tunnel.alerts import read_alert_record
from sallyport.tunnel.errors import TlsFailed, TlsTruncated
from sallyport.tunnel.limits import limit

# The most plaintext that a record holds. OpenSSL hands out one record a read, so that a read of this size
# leaves nothing behind, and a larger buffer is never filled.
_RECORD: Final = 16 * 1024

PIECE: Final = limit(
    80 * 1024, "bytes",
    "given to OpenSSL at once: its buffers never shrink, so an idle connection would hold as much as the "
    "largest piece that ever passed (325 KiB after 256). A message of the link, 64 KiB and its headers, goes "
    "whole; with 32 KiB, bulk costs a tenth more",
)  # fmt: skip

# OpenSSL's names for a received alert are "<era>_ALERT_<name>" and, for the later ones, "<era>_<name>".
_ALERT_PREFIXES = ("SSLV3_ALERT_", "TLSV1_ALERT_", "TLSV13_ALERT_")
_ALERTS_WITHOUT_INFIX = {
    "TLSV1_UNRECOGNIZED_NAME": "unrecognized_name",
    "TLSV1_UNSUPPORTED_EXTENSION": "unsupported_extension",
    "TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE": "bad_certificate_status_response",
}


class TlsEngine:
    """
    One end of one TLS connection over memory buffers.

    Args:
        context: Made by ``certs.contexts``, which sets every flag.
        server_side: Whether this end accepts.
        server_hostname: The name to send as SNI and to check; clients only.

    Attributes:
        tls: What OpenSSL knows of the connection.
        outgoing: What must be written to the network; ``data_to_send`` takes it.
        handshake_complete: Whether the handshake has succeeded at this end.
        peer_closed: Whether the peer has sent close_notify.
        failure: What broke the connection behind plaintext that was still good, until ``receive`` is called.
    """

    __slots__ = ("_incoming", "failure", "handshake_complete", "outgoing", "peer_closed", "tls")

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.handshake_complete = False
        self.peer_closed = False
        self.failure: TlsFailed | None = None

    # Receiving

    def start(self) -> None:
        """
        Begin the handshake; on the client's side this writes the ClientHello.

        Raises:
            TlsFailed: The context cannot make a hello.
        """
        self._shake_hands()

    def receive(self, data: bytes | memoryview) -> bytes:
        """
        Feed bytes from the network and return the plaintext that they complete, which may be empty.

        ``handshake_complete``, ``peer_closed`` and ``failure`` may have changed afterwards. A close_notify
        ends the plaintext: what the peer sends behind it is ignored, as RFC 8446 §6.1 wants. So does a record
        that is broken; what came whole before it is returned first. Do it by the ``PIECE``.

        Raises:
            TlsFailed: The handshake or a record failed, or the peer sent a fatal alert.
        """
        if self.failure is not None:
            raise self.failure
        if self.peer_closed:
            return b""
        incoming = self._incoming
        incoming.write(data)
        if not self.handshake_complete and not self._shake_hands_with(data):
            return b""
        chunks = []
        read = self.tls.read
        try:
            # Asking OpenSSL once more than there are records costs an exception, so ask the buffer first.
            while incoming.pending:
                chunk = read(_RECORD)
                if not chunk:
                    self.peer_closed = True
                    break
                chunks.append(chunk)
        except ssl.SSLError as error:
            self._stop(error, had_plaintext=bool(chunks))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def receive_eof(self) -> None:
        """
        Take note that the network has ended.

        Raises:
            TlsTruncated: There was no close_notify before, so what came may not be all.
        """
        if not self.peer_closed:
            raise TlsTruncated("after the handshake" if self.handshake_complete else "during the handshake")

    # Sending

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """
        Encrypt data. Do it by the ``PIECE``, and take what is to be sent each time.

        Raises:
            TlsFailed: The connection has failed before.
        """
        try:
            sent = self.tls.write(data) if data else 0
            while sent < len(data):
                sent += self.tls.write(memoryview(data)[sent:])
        except ssl.SSLError as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Send close_notify, once the handshake is complete; there is nothing to close before."""
        if not self.handshake_complete:
            return
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            # unwrap() also waits for the peer's close_notify, which a memory buffer answers with "want
            # read"; and a connection that has failed has no close_notify to send. Neither is news.
            return

    def data_to_send(self) -> bytes:
        """Return what must be written to the network now, which may be empty."""
        return self.outgoing.read()

    # Inside

    def _shake_hands_with(self, data: bytes | memoryview) -> bool:
        try:
            return self._shake_hands()
        except TlsFailed as error:
            if error.alert is None and (alert := read_alert_record(data)) is not None:
                raise TlsFailed(alert.name.lower(), "before the handshake began") from error
            raise

    def _shake_hands(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _failure(error) from error
        except ValueError as error:
            # The only ValueError here is a server name that cannot be encoded as SNI.
            raise TlsFailed(None, str(error)) from error
        self.handshake_complete = True
        return True

    def _stop(self, error: ssl.SSLError, *, had_plaintext: bool) -> None:
        """Judge why there is no more plaintext; a failure behind some is kept for when that was taken."""
        if isinstance(error, ssl.SSLWantReadError):
            return  # The rest is the beginning of a record, or a post-handshake message without plaintext.
        if isinstance(error, ssl.SSLZeroReturnError):
            self.peer_closed = True
            return
        failure = _failure(error)
        failure.__cause__ = error
        if not had_plaintext:
            raise failure
        self.failure = failure


def _failure(error: ssl.SSLError) -> TlsFailed:
    """Translate OpenSSL's error: which alert the peer sent, or what this end found wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailed(None, error.verify_message)
    reason = error.reason or ""
    alert = _ALERTS_WITHOUT_INFIX.get(reason)
    for prefix in _ALERT_PREFIXES:
        if reason.startswith(prefix):
            alert = reason.removeprefix(prefix).lower()
    detail = reason.replace("_", " ").lower() or "an error that OpenSSL has no name for"
    return TlsFailed(alert, detail)
