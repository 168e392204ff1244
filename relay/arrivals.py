"""
The arrivals: connections that have not said hello yet.

A connection is accepted, and becomes a ``Greeting`` until its first bytes say what it is for. Until then it
has no transport, no protocol and no task: a dictionary entry, a reader and a timer, because everybody on the
internet may open as many of them as he likes. What bounds them all together:

* 16 KiB and ``HELLO_TIMEOUT`` for one hello, ``MAX_ARRIVALS`` for all of them. Beyond that the oldest has to
  go: honest hellos take one round trip, so he is the least likely to be one.
* When the process runs out of descriptors, accepting pauses; the kernel's backlog keeps whoever comes.

Whether a connection comes from a balancer is decided by the address that the kernel saw, and by nothing else.
"""

import asyncio
import errno
import resource
import socket
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import structlog

from sallyport.relay.greeting import Arrived, Greeting, Reception
from sallyport.tunnel.alerts import Situation
from sallyport.tunnel.limits import limit

log = structlog.get_logger("sallyport.relay")

HELLO_TIMEOUT: Final = limit(
    5.0, "seconds",
    "from the connection to the whole ClientHello. A caller sends it at once; five seconds are two "
    "retransmissions on a lossy path",
)  # fmt: skip

MAX_ARRIVALS: Final = limit(
    2048, "connections",
    "without a ClientHello yet, or a quarter of the descriptors if that is less; beyond it the oldest has "
    "to go. A thousand callers a second on paths of 300 ms are 300 of them",
)  # fmt: skip

_ACCEPTS_PER_TURN: Final = limit(
    64, "connections",
    "taken in one turn of the event loop; the others wait in the backlog, so that a storm does not keep "
    "the loop from the streams that are open",
)  # fmt: skip

_ACCEPT_PAUSE: Final = limit(
    0.5, "seconds",
    "without accepting after the system has run out of descriptors or memory",
)  # fmt: skip

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


def _affordable() -> int:
    """
    Say how many connections may be without a hello: at most a quarter of all descriptors.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_ARRIVALS if descriptors == resource.RLIM_INFINITY else min(MAX_ARRIVALS, descriptors // 4)


class Arrivals:
    """
    Accepts connections and reads their hellos.

    Args:
        listener: the public socket, in non-blocking mode; closed by ``stop``.
        reception: whom to hand the connections to.
        loop: the running loop.
        balancers: the networks whose connections begin with a PROXY header.
        hello_timeout: seconds for one hello, its header included.
        limit: connections without a hello at once; None for what the process can afford.
    """

    def __init__(
        self,
        listener: socket.socket,
        reception: Reception,
        *,
        loop: asyncio.AbstractEventLoop,
        balancers: Collection[IPv4Network | IPv6Network] = (),
        hello_timeout: float = HELLO_TIMEOUT,
        limit: int | None = None,
    ) -> None:
        self._listener = listener
        self._reception = reception
        self._loop = loop
        self._balancers = balancers
        self._hello_timeout = hello_timeout
        self._limit = _affordable() if limit is None else limit
        self._waiting: dict[Greeting, None] = {}  # in the order of their arrival
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
        for greeting in list(self._waiting):
            greeting.close("the relay is about to stop")

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
        greeting = Greeting(
            arrived,
            self._reception,
            is_from_balancer=self._is_balancer(arrived.address),
            ended=self._forget,
            loop=self._loop,
        )
        self._waiting[greeting] = None
        greeting.start(self._hello_timeout)

    def _forget(self, greeting: Greeting) -> None:
        del self._waiting[greeting]

    def _is_balancer(self, address: str) -> bool:
        if not self._balancers:
            return False
        peer = ip_address(address)
        return any(peer in network for network in self._balancers)

    def _pause_accepting(self, error: OSError) -> None:
        """
        Stop accepting for a moment: the listener stays readable, and would spin the loop.
        """
        if not self._is_exhausted:
            self._is_exhausted = True
            reason = "out of descriptors or memory" if error.errno in _EXHAUSTED else "accepting failed"
            log.error("accepting paused", reason=reason, error=error.strerror or str(error))
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(_ACCEPT_PAUSE, self.start)
