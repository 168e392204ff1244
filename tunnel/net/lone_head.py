"""
A head that comes without what is behind it.

Programs write a head and the body behind it one after the other, a few microseconds apart: uvicorn does, and
httpx. Each would go its own way through all hops, nearly at the price of two messages. So a head that comes
alone is looked behind in the next turn of the event loop. If there is more in the socket, both go on together
a turn later; if not, the head goes on at once, for an event stream may be silent for minutes behind it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from sallyport.tunnel.limits import limit

_END_OF_HEAD: Final = b"\r\n\r\n"
_LARGEST: Final = limit(
    4096, "bytes",
    "of a head that waits for the body right behind it: more than clients send",
)  # fmt: skip


class LoneHead:
    """
    Holds such a head for one connection, for two turns of the loop at most.

    Whoever receives anything while one is held joins it first, for a body by itself might look like a head,
    and does not hold what is joined, so that nothing gathers here.

    Args:
        has_unread: Tells whether there is more in the connection's socket; see ``unread_probe``.
        loop: The running loop.
        take: Called with the head when nothing was behind it.

    Attributes:
        held: The head; empty when none is held.
    """

    __slots__ = ("_has_unread", "_loop", "_take", "held")

    def __init__(
        self,
        has_unread: Callable[[], object],
        *,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[bytes], None],
    ) -> None:
        self.held = b""
        self._has_unread = has_unread
        self._loop = loop
        self._take: Callable[[bytes], None] | None = take

    def hold(self, data: bytes) -> bool:
        """Hold data that ends where a head does, and say whether it is held; to be asked where one is due."""
        if len(data) > _LARGEST or not data.endswith(_END_OF_HEAD):
            return False
        self.held = data
        self._loop.call_soon(self._look_behind)
        return True

    def join(self, data: bytes) -> bytes:
        """Return the head and what has come behind it."""
        data, self.held = self.held + data, b""
        return data

    def release(self) -> None:
        """Have the head taken now, if one is held."""
        head, self.held = self.held, b""
        if head and self._take is not None:
            self._take(head)

    def cancel(self) -> None:
        """Hold nothing more and let go of the owner, at the end of his life; see ``Deadline.cancel``."""
        self.held = b""
        self._take = None

    def _look_behind(self) -> None:
        if self.held and self._has_unread():
            self._loop.call_soon(self.release)  # The loop delivers what is there before it comes to this.
        else:
            self.release()
