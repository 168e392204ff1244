"""
How the relay turns somebody away: one TLS alert, and a close that lets it arrive.

A socket that is closed while bytes are unread in it sends a reset, and a reset overtakes what was sent
before: the peer would see a broken connection in place of the alert (seen, 20 of 20). So the alert goes out,
then the end of our side, then whatever the peer has sent or still sends is read and thrown away, until he has
closed too, or for a second, or for 64 KiB.
"""

import asyncio
from typing import Final, cast

from sallyport.tunnel.alerts import Alert, alert_record
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.sockets import finish_writing

_FAREWELL_SECONDS: Final = limit(
    1.0, "seconds",
    "for whoever was turned away to take the alert and leave: a connection closed with bytes unread is "
    "reset, and the reset can overtake the alert",
)  # fmt: skip
_FAREWELL_BYTES: Final = limit(
    64 * 1024, "bytes",
    "that whoever was turned away may still send meanwhile; a caller with more to say is no caller",
)  # fmt: skip


class Farewell(asyncio.Protocol):
    """
    The protocol of a connection that is turned away.

    Args:
        alert: what the peer is told.
        loop: the running loop.
    """

    def __init__(self, alert: Alert, *, loop: asyncio.AbstractEventLoop) -> None:
        self._alert = alert
        self._loop = loop
        self._discarded = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(alert_record(self._alert))
        finish_writing(self._transport)
        self._timer = self._loop.call_later(_FAREWELL_SECONDS, self._transport.close)

    def data_received(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _FAREWELL_BYTES and self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        return False  # which closes

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
