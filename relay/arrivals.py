"""
The public socket: connections that have not said hello yet.

A connection is accepted, its first bytes are peeked at (``MSG_PEEK`` leaves them where they are) until they
are a ClientHello or cannot become one, and the untouched socket goes to whoever is told. Until then it has no
transport, no protocol and no task: a dictionary entry, a reader and a timer, because everybody on the
internet may open as many of them as he likes.

What keeps a peer who opens them and says nothing, or says it slowly, from costing anything:

* After each short peek the socket's SO_RCVLOWAT is raised to what the hello takes at least
  (``sni.least_length``), so the event loop is woken a few dozen times for a hello in the worst case, not once
  for every byte, and never for the bytes that were peeked at before. A wake-up that brings nothing new is
  the peer's FIN: whoever says half a hello and closes will not say the other half.
* 16 KiB and ``HELLO_TIMEOUT`` bound one hello, ``MAX_ARRIVALS`` all of them together. Beyond that the oldest
  has to go: honest hellos take one round trip, so he is the least likely to be one.
* When the process runs out of descriptors, accepting pauses; the kernel's backlog keeps whoever comes.

Health probes of balancers that connect and close, and scanners that connect and reset, are nobody's error.
"""

import asyncio
import errno
import os
import resource
import socket
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from sallyport.relay.errors import ListenFailed
from sallyport.tunnel.alerts import SPEC_ALERTS, Alert, Situation
from sallyport.tunnel.errors import HelloRefused
from sallyport.tunnel.hello_records import MAX_HELLO
from sallyport.tunnel.sni import ClientHello, least_length, read_client_hello

log = structlog.get_logger("sallyport.relay")

# Seconds from the connection to the whole hello. A caller sends it at once; five seconds are two
# retransmissions on a lossy path.
HELLO_TIMEOUT: Final = 5.0

# Connections without a hello, at most. A thousand callers a second on paths of 300 ms are 300 of them.
MAX_ARRIVALS: Final = 2048

# Connections taken in one turn of the loop; the others wait in the backlog for the next one, so that a storm
# does not keep the loop from the streams that are open.
_ACCEPTS_PER_TURN: Final = 64
_BACKLOG: Final = 4096

# Seconds without accepting after the system has run out of something.
_PAUSE: Final = 0.5

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# What accept(2) passes on from a connection that failed in the backlog. The next one may be fine.
_ALREADY_GONE: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,  # a firewall rule
    }
)


@dataclass(frozen=True, slots=True)
class Arrived:
    """
    A connection whose socket nobody has read from.

    Attributes:
        sock: the socket, in non-blocking mode; whoever is given it owns it.
        address: where it comes from, without port.
    """

    sock: socket.socket
    address: str


class Reception(Protocol):
    """
    Whom the arrivals are handed to.
    """

    def hello_said(self, arrived: Arrived, hello: ClientHello) -> None:
        """A connection has said hello."""

    def hello_refused(self, arrived: Arrived, alert: Alert, why: str) -> None:
        """A connection has sent something that is no hello, or not in time."""


def _affordable() -> int:
    """
    Say how many connections may be without a hello: at most a quarter of all descriptors.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_ARRIVALS if descriptors == resource.RLIM_INFINITY else min(MAX_ARRIVALS, descriptors // 4)


def listen(host: str, port: int) -> socket.socket:
    """
    Open the public socket.

    Args:
        host: an address of this machine, or its name. ``::`` takes IPv4 as well.
        port: the port; 0 takes a free one.

    Raises:
        ListenFailed: the address cannot be used.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenFailed(shown, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenFailed(shown, error) from error
    listener.setblocking(False)
    return listener


class Arrivals:
    """
    Accepts connections and reads their hellos.

    Args:
        listener: the public socket, in non-blocking mode; closed by ``stop``.
        reception: whom to hand the connections to.
        loop: the running loop.
        hello_timeout: seconds for one hello.
        limit: connections without a hello at once; None for what the process can afford.
    """

    def __init__(
        self,
        listener: socket.socket,
        reception: Reception,
        *,
        loop: asyncio.AbstractEventLoop,
        hello_timeout: float = HELLO_TIMEOUT,
        limit: int | None = None,
    ) -> None:
        self._listener = listener
        self._reception = reception
        self._loop = loop
        self._hello_timeout = hello_timeout
        self._limit = _affordable() if limit is None else limit
        self._waiting: dict[_Arrival, None] = {}  # in the order of their arrival
        self._pause: asyncio.TimerHandle | None = None
        self._is_exhausted = False
        self._is_stopped = False

    def __len__(self) -> int:
        """
        Count the connections that have not said hello yet.
        """
        return len(self._waiting)

    def start(self) -> None:
        """
        Begin to accept.
        """
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """
        Accept no more, and let those go that have not said hello.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for arrival in list(self._waiting):
            arrival.close("the relay is about to stop")

    # Accepting

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _ALREADY_GONE:
                    continue
                self._pause_accepting(error)
                return
            self._accepted(sock, peer[0])

    def _accepted(self, sock: socket.socket, host: str) -> None:
        if self._is_exhausted:
            self._is_exhausted = False
            log.info("accepting again")
        sock.setblocking(False)
        if len(self._waiting) >= self._limit:
            next(iter(self._waiting)).end(Situation.LIMIT, "too many connections have not said hello")
        # On a socket for both families, IPv4 addresses come as IPv6 ones.
        arrived = Arrived(sock, host.removeprefix("::ffff:") if "." in host else host)
        arrival = _Arrival(self, arrived)
        self._waiting[arrival] = None
        arrival.start(self._hello_timeout)

    def _pause_accepting(self, error: OSError) -> None:
        """
        Stop accepting for a moment: the listener stays readable, and would spin the loop.
        """
        if not self._is_exhausted:
            self._is_exhausted = True
            reason = "out of descriptors or memory" if error.errno in _EXHAUSTED else "accepting failed"
            log.error("accepting paused", reason=reason, error=error.strerror or str(error))
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(_PAUSE, self.start)

    # What an arrival calls

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def reception(self) -> Reception:
        return self._reception

    def forget(self, arrival: "_Arrival") -> None:
        del self._waiting[arrival]


class _Arrival:
    """
    One connection until its hello is read, or until it is clear that there will be none.
    """

    __slots__ = ("_arrivals", "_arrived", "_peeked", "_timer")

    def __init__(self, arrivals: Arrivals, arrived: Arrived) -> None:
        self._arrivals = arrivals
        self._arrived = arrived
        self._peeked = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, timeout: float) -> None:
        loop = self._arrivals.loop
        self._timer = loop.call_later(timeout, self.end, Situation.SLOW, "no whole ClientHello in time")
        loop.add_reader(self._arrived.sock, self._peek)

    def end(self, situation: Situation, why: str) -> None:
        """
        Give the connection up; whoever has said nothing is told nothing.
        """
        if self._peeked:
            self._detach()
            self._arrivals.reception.hello_refused(self._arrived, SPEC_ALERTS[situation], why)
        else:
            self.close(why)

    def _peek(self) -> None:
        sock = self._arrived.sock
        try:
            data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
            # What came before a reset can still be read, but there is nobody left to say it to. And this is
            # the last wake-up: uvloop stops watching a socket that has an error.
            reset = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if reset:
            self.close(os.strerror(reset))
            return
        if len(data) <= self._peeked:
            self.end(Situation.MALFORMED, "closed by the peer before its hello was whole")
            return
        self._peeked = len(data)
        try:
            hello = read_client_hello(data)
            if hello is None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least_length(data))
                return
        except HelloRefused as refused:
            self._detach()
            self._arrivals.reception.hello_refused(self._arrived, Alert(refused.alert), refused.detail)
            return
        self._detach()
        self._arrivals.reception.hello_said(self._arrived, hello)

    def _detach(self) -> None:
        """
        Leave the socket as if nobody had looked at it.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._arrivals.loop.remove_reader(self._arrived.sock)
        self._arrived.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._arrivals.forget(self)

    def close(self, why: str) -> None:
        self._detach()
        self._arrived.sock.close()
        log.debug("no hello", address=self._arrived.address, received=self._peeked, reason=why)
