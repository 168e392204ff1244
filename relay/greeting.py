"""
One connection until it has said hello, or until it is clear that it will not.

Its first bytes are peeked at (``MSG_PEEK`` leaves them where they are) until they are a ClientHello or cannot
become one, and the untouched socket goes to the ``Reception``. What keeps a peer who says it slowly from
costing anything:

* After each short peek the socket's SO_RCVLOWAT is raised to what the hello takes at least
  (``sni.least_length``), so the event loop is woken a few dozen times for a hello in the worst case, not once
  for every byte, and never for the bytes that were peeked at before.
* The kernel does not promise that. Short of memory for TCP, or with a buffer that is nearly full, it passes
  SO_RCVLOWAT over and calls a socket readable as long as it holds one byte. That would spin the loop, so
  after a wake-up for too little the socket is left alone for a pause, and for twice as long each time.
* Whoever says half a hello and closes will not say the other half. A wake-up for too little may be the peer's
  FIN, so that is asked for.

A balancer that the operator has listed says a PROXY header first (``tunnel.proxy_v2``). The header is the one
thing that is really read here, so that what is handed on begins with the hello whoever brought it, and the
address in it is the caller's from then on. A listed peer must say one: else a balancer that has lost its
setting would pass all its callers off as one, and nobody would notice.

Whoever leaves without a word of his own, with a header or without, is nobody's error: health probes do.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from sallyport.tunnel.alerts import SPEC_ALERTS, Alert, Situation
from sallyport.tunnel.errors import HelloRefused, ProxyRefused
from sallyport.tunnel.hello_records import MAX_HELLO
from sallyport.tunnel.limits import limit
from sallyport.tunnel.proxy_v2 import least_header, read_proxy_header
from sallyport.tunnel.sni import ClientHello, least_length, read_client_hello

log = structlog.get_logger("sallyport.relay")

_FIRST_PAUSE: Final = limit(
    0.01, "seconds",
    "without looking at a connection after a wake-up for too little, and twice as long each further "
    "time: a kernel short of memory for TCP wakes so without end, and gets ten looks a hello",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arrived:
    """
    A connection whose socket nobody has read from, but for a balancer's header.

    Attributes:
        sock: the socket, in non-blocking mode; whoever is given it owns it.
        address: where it comes from, without port: behind a balancer, what that says.
    """

    sock: socket.socket
    address: str


class Reception(Protocol):
    """
    Whom connections are handed to.
    """

    def hello_said(self, arrived: Arrived, hello: ClientHello) -> None:
        """A connection has said hello."""

    def hello_refused(self, arrived: Arrived, alert: Alert, why: str) -> None:
        """A connection has sent something that is no hello, or not in time."""

    def header_refused(self, arrived: Arrived, refused: ProxyRefused) -> None:
        """A listed balancer has not said who calls."""


class Greeting:
    """
    One connection that has not said hello.

    Args:
        arrived: the connection.
        reception: whom to hand it to.
        is_from_balancer: whether it begins with a PROXY header.
        ended: told when the connection was handed over or closed.
        loop: the running loop.
    """

    __slots__ = (
        "_arrived",
        "_ended",
        "_loop",
        "_next_look",
        "_owes_header",
        "_pause",
        "_peeked",
        "_reception",
        "_timer",
        "_wanted",
    )

    def __init__(
        self,
        arrived: Arrived,
        reception: Reception,
        *,
        is_from_balancer: bool,
        ended: Callable[["Greeting"], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._arrived = arrived
        self._reception = reception
        self._owes_header = is_from_balancer
        self._ended = ended
        self._loop = loop
        self._peeked = 0  # the unread bytes that were judged
        self._wanted = 1  # the unread bytes that are worth another look
        self._pause = _FIRST_PAUSE
        self._next_look: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, timeout: float) -> None:
        """
        Begin to look.

        Args:
            timeout: seconds for everything.
        """
        self._timer = self._loop.call_later(timeout, self.end, Situation.SLOW, "no whole ClientHello in time")
        self._watch()

    def end(self, situation: Situation, why: str) -> None:
        """
        Give the connection up; whoever has said nothing is told nothing.
        """
        if self._peeked:
            self._detach()
            self._reception.hello_refused(self._arrived, SPEC_ALERTS[situation], why)
        else:
            self.close(why)

    def close(self, why: str) -> None:
        """
        Close the connection without a word.
        """
        self._detach()
        self._arrived.sock.close()
        log.debug("no hello", address=self._arrived.address, received=self._peeked, reason=why)

    # Looking

    def _watch(self) -> None:
        self._loop.add_reader(self._arrived.sock, self._look)

    def _look(self) -> None:
        try:
            data = self._peek()
            if len(data) < self._wanted:
                if not _has_fin(self._arrived.sock):
                    self._look_later()
                    return
                # Behind the first peek, more may have come with the FIN.
                data = self._peek()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if len(data) > self._peeked:
            self._read(data)
        else:
            self.end(Situation.MALFORMED, "closed by the peer before its hello was whole")

    def _look_later(self) -> None:
        """
        Leave the socket alone for a while: the kernel calls it readable, and would do so at once again.
        """
        self._loop.remove_reader(self._arrived.sock)
        self._next_look = self._loop.call_later(self._pause, self._watch)
        self._pause *= 2

    def _peek(self) -> bytes:
        """
        Look at what is there.

        Raises:
            OSError: nothing is there yet, or the peer has reset the connection.
        """
        sock = self._arrived.sock
        data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
        # What came before a reset can still be read, but there is nobody left to say it to. And this is the
        # last wake-up: uvloop stops watching a socket that has an error.
        if reset := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(reset, os.strerror(reset))
        return data

    def _read(self, data: bytes) -> None:
        self._peeked = len(data)
        if not self._owes_header:
            self._read_hello(data)
        elif (rest := self._take_header(data)) is not None:
            self._peeked = len(rest)
            self._read_hello(rest)

    def _read_hello(self, data: bytes) -> None:
        if not data:  # a balancer's header, and nothing behind it yet
            return
        try:
            hello = read_client_hello(data)
            if hello is None:
                self._wait_for(least_length(data))
                return
        except HelloRefused as refused:
            self._detach()
            self._reception.hello_refused(self._arrived, Alert(refused.alert), refused.detail)
            return
        self._detach()
        self._reception.hello_said(self._arrived, hello)

    def _take_header(self, data: bytes) -> bytes | None:
        """
        Read the balancer's header off the socket.

        Returns:
            What has come behind it, or None when the header is not whole or the connection was given up.
        """
        try:
            header = read_proxy_header(data)
            if header is None:
                self._wait_for(least_header(data))
                return None
        except ProxyRefused as refused:
            self._detach()
            self._reception.header_refused(self._arrived, refused)
            return None
        self._wait_for(1)
        try:
            taken = self._arrived.sock.recv(header.length)
        except OSError as error:
            self.close(error.strerror or str(error))
            return None
        if len(taken) < header.length:  # An urgent byte in the middle does that, and no balancer sends one.
            self.close("the PROXY header came to pieces")
            return None
        self._owes_header = False
        if header.address is not None:
            self._arrived = replace(self._arrived, address=header.address)
        return data[header.length :]

    def _wait_for(self, count: int) -> None:
        """
        Ask to be woken when so many bytes are unread, or at the peer's FIN, and not before.
        """
        self._wanted = count
        self._arrived.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _detach(self) -> None:
        """
        Leave the socket as if nobody had looked at it.
        """
        for timer in (self._timer, self._next_look):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._arrived.sock)
        self._wait_for(1)
        self._ended(self)


def _has_fin(sock: socket.socket) -> bool:
    """
    Ask whether the peer will send no more, which peeking cannot tell while bytes are unread.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
