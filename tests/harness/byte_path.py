"""
The byte path of a tunnel without sockets and without time: what a byte costs in our own code.

One link with any number of callers, from the relay's TCP connection of a caller (``SpliceHalf``) to the
plaintext above the gateway's inner TLS, and back. Carrier, loop and connections are stand-ins that keep what
they are given, so each of the four legs of a call can be run, timed or counted alone:

    ask      relay    caller's bytes -> splice -> stream -> mux -> message
    hear     gateway  message -> mux -> stream -> inner TLS -> plaintext
    answer   gateway  plaintext -> inner TLS -> stream -> mux -> message
    deliver  relay    message -> mux -> stream -> splice -> caller's connection
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

from sallyport.tunnel.errors import TunnelError
from sallyport.tunnel.events import Hello, HelloAck, Opening, Refusal
from sallyport.tunnel.frames import GoAwayReason
from sallyport.tunnel.mux import Side
from sallyport.tunnel.net.link import Link
from sallyport.tunnel.net.splice import Splice
from sallyport.tunnel.net.stream import Stream
from sallyport.tunnel.net.tls import TlsTransport
from sallyport.tunnel.tls_engine import TlsEngine
from sallyport.tunnel.windows import MemoryBudget


class StepLoop:
    """An event loop that runs what is due when it is told to, and whose timers never fire."""

    def __init__(self) -> None:
        self._due: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def time(self) -> float:
        return 1000.0

    def call_soon(self, callback: Callable[..., object], *facts: object) -> None:
        self._due.append((callback, facts))

    def call_at(self, when: float, callback: Callable[..., object], *facts: object) -> "Timer":
        return Timer()

    def call_later(self, delay: float, callback: Callable[..., object], *facts: object) -> "Timer":
        return Timer()

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context["exception"]

    def turn(self) -> None:
        """Run what is due, and what becomes due by it."""
        while self._due:
            due, self._due = self._due, []
            for callback, facts in due:
                callback(*facts)


class Timer:
    """A timer that nobody winds."""

    __slots__ = ()

    def cancel(self) -> None:
        """Do nothing: it would not have fired."""


class Sink(asyncio.Transport):
    """A caller's connection at the relay that takes whatever it is given, at once."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.taken = 0
        self.kept: list[bytes] | None = [] if keeps else None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.taken += len(data)
        if self.kept is not None:
            self.kept.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Do nothing: what a caller sends is decided by whoever runs the legs."""

    def resume_reading(self) -> None:
        """Do nothing."""


class Wire:
    """A carrier that keeps the messages of one end until they are taken."""

    def __init__(self) -> None:
        self.is_writable = True
        self.messages: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.messages.append(message)

    def take(self) -> list[bytes]:
        """Take what was sent."""
        messages, self.messages = self.messages, []
        return messages

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


class Plaintext(asyncio.Protocol):
    """What stands above the inner TLS."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def pause_writing(self) -> None:
        """Do nothing: what is answered is decided by whoever runs the legs."""

    def resume_writing(self) -> None:
        """Do nothing."""


class _Owner:
    """Whoever owns the two ends; the gateway's puts inner TLS on each stream."""

    def __init__(self, path: "BytePath") -> None:
        self._path = path

    def hello_received(self, link: Link, hello: Hello) -> HelloAck | Refusal:
        return HelloAck(max_streams=20_000, boot_id="relay", software="test", time=1_000_000)

    def link_ready(self, link: Link) -> None:
        """Nothing waits for it."""

    def stream_opened(self, link: Link, stream: Stream, opening: Opening) -> asyncio.Protocol:
        return self._path.serve(stream)

    def go_away_received(self, link: Link, reason: GoAwayReason, text: str) -> None:
        raise AssertionError("no end leaves")

    def link_lost(self, link: Link, error: TunnelError | None) -> None:
        raise AssertionError("no link is lost")


class Caller:
    """One caller: its own TLS, its connection at the relay, and its plaintext at the gateway."""

    def __init__(self, engine: TlsEngine | None) -> None:
        self.engine = engine
        self.sink = Sink(keeps=True)
        self.splice: Splice | None = None


class BytePath:
    """
    A link with callers on it.

    Args:
        door: The gateway's context for inner TLS; None to leave TLS out.
        dial: The caller's context.
        host: The name that callers ask for.
    """

    def __init__(self, door: ssl.SSLContext | None, dial: ssl.SSLContext | None, host: str) -> None:
        self.loop = StepLoop()
        self._door, self._dial, self._host = door, dial, host
        owner = _Owner(self)
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        hello = Hello(max_streams=20_000, boot_id="gateway", software="test")
        self.relay = Link(Side.RELAY, owner, budget=MemoryBudget(), loop=loop)
        self.gateway = Link(Side.GATEWAY, owner, budget=MemoryBudget(), loop=loop, hello=hello)
        self.relay_wire, self.gateway_wire = Wire(), Wire()
        for link, wire in ((self.relay, self.relay_wire), (self.gateway, self.gateway_wire)):
            link.carrier_connected(wire)
            link.carrier_opened()
        self.callers: list[Caller] = []
        self.served: list[Plaintext] = []
        self.settle()

    def serve(self, stream: Stream) -> asyncio.Protocol:
        """Return the protocol of a stream that has just come to the gateway."""
        upper = Plaintext()
        self.served.append(upper)
        if self._door is None:
            return upper
        return TlsTransport(
            TlsEngine(self._door, server_side=True),
            upper,
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            verify=lambda tls: None,
            handshake_timeout=10,
        )

    def add_caller(self) -> Caller:
        """Open a stream for a caller and complete its handshake."""
        engine = None
        if self._dial is not None:
            engine = TlsEngine(self._dial, server_side=False, server_hostname=self._host)
            engine.start()
        caller = Caller(engine)
        hello = b"hello" if engine is None else engine.data_to_send()

        def open_stream(far: asyncio.Protocol, first: bytes) -> asyncio.Transport:
            opening = Opening("0123456789abcdef", self._host, "192.0.2.7:50123", first)
            return self.relay.open_stream(far, opening)

        caller.splice = splice = Splice(open_stream, ended=_never, refused=_never)
        splice.open_far(hello)
        splice.near.connection_made(caller.sink)
        self.callers.append(caller)
        self.settle()
        if engine is not None:
            engine.receive(b"".join(caller.sink.kept or []))
            self.ask([engine.data_to_send()], [caller])
            self.settle()
        caller.sink.kept = None
        return caller

    def settle(self) -> None:
        """Carry messages both ways until there are none."""
        self.loop.turn()
        while self.relay_wire.messages or self.gateway_wire.messages:
            self.hear(self.relay_wire.take())
            self.deliver(self.gateway_wire.take())

    def encrypt(self, request: bytes) -> list[bytes]:
        """Make the same request by each caller: the bytes that its connection brings."""
        return [self._encrypted(caller, request) for caller in self.callers]

    def _encrypted(self, caller: Caller, request: bytes) -> bytes:
        if caller.engine is None:
            return request
        caller.engine.send(request)
        return caller.engine.data_to_send()

    # The four legs

    def ask(self, requests: list[bytes], callers: list[Caller] | None = None) -> None:
        """Let bytes come in on the connections of callers, in one turn of the relay's loop."""
        for caller, request in zip(callers or self.callers, requests, strict=True):
            caller.splice.near.data_received(request)  # type: ignore[union-attr]
        self.loop.turn()

    def hear(self, messages: list[bytes]) -> None:
        """Let messages come in at the gateway."""
        for message in messages:
            self.gateway.message_received(message)
        self.loop.turn()

    def answer(self, response: bytes) -> None:
        """Answer every caller, in one turn of the gateway's loop."""
        for upper in self.served:
            upper.transport.write(response)  # type: ignore[union-attr]
        self.loop.turn()

    def deliver(self, messages: list[bytes]) -> None:
        """Let messages come in at the relay."""
        for message in messages:
            self.relay.message_received(message)
        self.loop.turn()


def _never(*_: object) -> None:
    raise AssertionError("no stream ends")
