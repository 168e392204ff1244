"""
The front: what becomes of each connection once it has said hello.

``admission.decide`` decides; this file acts. Whatever the decision, the untouched socket becomes an asyncio
transport with one of three protocols: a link's TLS, a caller's stream, or a farewell with an alert. So
nothing hangs, nothing is answered in plain text, and nobody is closed upon in silence who has said anything.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, assert_never

import structlog
from anyio.abc import TaskGroup

from sallyport.certs.errors import CertificateError
from sallyport.relay.admission import Refuse, ToCaller, ToLink, decide
from sallyport.relay.callers import CallerConnection
from sallyport.relay.farewell import Farewell
from sallyport.relay.greeting import Arrived
from sallyport.relay.link_contexts import LinkContexts
from sallyport.relay.links import GatewayLink, Links
from sallyport.relay.registry import Tunnel
from sallyport.tunnel.alerts import SPEC_ALERTS, Alert, Situation
from sallyport.tunnel.errors import ProxyRefused
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.sockets import tune_link, tune_stream
from sallyport.tunnel.sni import ClientHello

log = structlog.get_logger("sallyport.relay")

_WARNING_INTERVAL: Final = limit(
    60.0, "seconds",
    "between two warnings about a balancer that says no PROXY header: every caller behind it would add one",
)  # fmt: skip


class Front:
    """
    Serves the public port: the ``Reception`` of the arrivals, and whoever counts the callers' streams.

    Args:
        links: the links, and with them the registry.
        contexts: TLS for links.
        domain: the relay's tunnel domain.
        tasks: where connections are handed over; it outlives them all.
        loop: the running loop.
    """

    def __init__(
        self,
        links: Links,
        contexts: LinkContexts,
        *,
        domain: str,
        tasks: TaskGroup,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._links = links
        self._contexts = contexts
        self._domain = domain
        self._tasks = tasks
        self._loop = loop
        self._next_header_warning = 0.0
        self._streams = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # What arrives

    def hello_said(self, arrived: Arrived, hello: ClientHello) -> None:
        """
        Decide about a connection, and act.
        """
        decision = decide(hello, self._links.registry, domain=self._domain)
        match decision:
            case ToLink(tunnel=tunnel):
                self._serve_link(arrived, tunnel)
            case ToCaller(tunnel=tunnel):
                tune_stream(arrived.sock)
                connection = CallerConnection(
                    tunnel,
                    self._links.registry,
                    hello=hello,
                    address=arrived.address,
                    callers=self,
                    loop=self._loop,
                )
                self._tasks.start_soon(self._hand_over, arrived, connection)
            case Refuse(situation=situation, why=why):
                self._log_refusal(arrived, hello, situation, why)
                self._turn_away(arrived, decision.alert)
            case _:
                assert_never(decision)

    def hello_refused(self, arrived: Arrived, alert: Alert, why: str) -> None:
        """
        Turn a connection away that cannot be read.
        """
        log.debug("hello refused", address=arrived.address, alert=alert.name.lower(), reason=why)
        self._turn_away(arrived, alert)

    def header_refused(self, arrived: Arrived, refused: ProxyRefused) -> None:
        """
        Turn a connection away whose balancer has not said who calls.

        It is the operator's mistake and concerns all callers of that balancer, so it is said aloud, but not
        as often as they try.
        """
        now = self._loop.time()
        if now >= self._next_header_warning:
            self._next_header_warning = now + _WARNING_INTERVAL
            log.warning("no PROXY header", address=arrived.address, reason=refused.detail, hint=refused.hint)
        self._turn_away(arrived, SPEC_ALERTS[Situation.NOT_TLS])

    # What is open

    def stream_began(self) -> None:
        """
        Count a caller's stream.
        """
        self._streams += 1
        self._idle.clear()

    def stream_ended(self) -> None:
        """
        Count it no more.
        """
        self._streams -= 1
        if not self._streams:
            self._idle.set()

    @property
    def stream_count(self) -> int:
        """
        How many callers have a stream.
        """
        return self._streams

    async def wait_until_idle(self) -> None:
        """
        Wait until no caller has a stream.
        """
        await self._idle.wait()

    # Acting

    def _serve_link(self, arrived: Arrived, tunnel: Tunnel) -> None:
        gateway_link = self._links.admit(tunnel, address=arrived.address)
        if gateway_link is None:
            self._turn_away(arrived, SPEC_ALERTS[Situation.LIMIT])
            return
        tune_link(arrived.sock)
        self._tasks.start_soon(self._start_link, arrived, tunnel, gateway_link)

    async def _start_link(self, arrived: Arrived, tunnel: Tunnel, gateway_link: GatewayLink) -> None:
        try:
            with _closed_if_cancelled(arrived):
                context = await self._contexts.context(tunnel)
        except CertificateError as error:
            log.error("no TLS for links", reason=str(error), hint=error.hint)
        except Exception:
            # A bug, or a root in the database that nobody can read: the tunnels of others are not to end
            # with it.
            log.exception("no TLS for links", tunnel=tunnel.id)
        else:
            await self._hand_over(arrived, gateway_link.protocol(context))
            return
        gateway_link.give_up()
        await self._hand_over(arrived, Farewell(SPEC_ALERTS[Situation.INTERNAL], loop=self._loop))

    def _turn_away(self, arrived: Arrived, alert: Alert) -> None:
        self._tasks.start_soon(self._hand_over, arrived, Farewell(alert, loop=self._loop))

    async def _hand_over(self, arrived: Arrived, protocol: asyncio.Protocol) -> None:
        try:
            with _closed_if_cancelled(arrived):
                await self._loop.connect_accepted_socket(lambda: protocol, arrived.sock)
        except OSError as error:
            # The peer has reset the connection meanwhile; the protocol was never connected, and hears that it
            # never will be.
            arrived.sock.close()
            protocol.connection_lost(error)

    def _log_refusal(self, arrived: Arrived, hello: ClientHello, situation: Situation, why: str) -> None:
        # Strangers who guess names can write as many of these lines as they like; a caller who finds no
        # gateway is worth the operator's attention.
        write = log.debug if situation is Situation.UNKNOWN_TUNNEL else log.info
        write(
            "caller refused",
            call=hello.reference,
            server_name=hello.server_name,
            address=arrived.address,
            situation=situation.value,
            reason=why,
        )


@contextmanager
def _closed_if_cancelled(arrived: Arrived) -> Iterator[None]:
    """
    Own a socket while its new owner is being made: the relay may be ended in the middle of it.
    """
    try:
        yield
    except asyncio.CancelledError:
        arrived.sock.close()
        raise
