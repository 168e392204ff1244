"""
Certificates rotated under open streams, through real processes: what ``make rotation`` measures and a short
end-to-end test repeats.

Streams of two kinds are opened on both paths, the connector's and TLS straight to the relay: event streams
that move once a second, whose steps are counted, and calls that wait for their whole answer. Then, round
after round, each of the four leaves is replaced (gateway, link, relay, caller) and the next handshake is
looked at from outside. A stream that ends, errs or misses a step is lost.
"""

import asyncio
import socket
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from cryptography import x509

from sallyport.certs.authority import make_relay_authority
from sallyport.certs.bundle import Bundle
from sallyport.certs.files import load_certificate, write_private, write_public
from sallyport.certs.pem import encode_certificates, encode_key
from tests.harness.child_process import NotReached
from tests.harness.mcp_wire import ModernClient, result_text, tool_call
from tests.harness.product import DOMAIN, LOOPBACK
from tests.harness.raw_http import Endpoint, Reply
from tests.harness.stage import Stage

_STEP_MS = 1000
_LOGGED = 0.5  # seconds within which a line is in the log: lines wait for each other, but not long
_FOREVER = 100_000  # steps: no stream ends by itself
_WAITING_SHARE = 5  # one stream in so many has no answer yet
_PICK_UP = 10.0  # seconds, with room for a busy machine; two are promised
_PATIENCE = 60.0


@dataclass
class Figures:
    """
    What became of the streams and of the handshakes.

    Attributes:
        streams: Opened before the first rotation.
        rotations: Leaves replaced, by kind.
        fresh: Handshakes that showed the new serial, by kind; as many as rotations when all is well.
        lost: Why each lost stream is lost.
        steps: Progress that arrived, each step in its place.
        slowest: The longest time until a new leaf was taken, in seconds, by kind.
    """

    streams: int
    rotations: Counter[str] = field(default_factory=Counter)
    fresh: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    steps: int = 0
    slowest: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost and every next handshake was fresh."""
        return not self.lost and self.fresh == self.rotations

    def took(self, kind: str, began: float) -> None:
        """Note how long a new leaf took to be taken."""
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), round(time.monotonic() - began, 2))


async def rotate_under_streams(stage: Stage, *, streams: int, rounds: int) -> Figures:
    """
    Open streams, rotate everything, and see what is left of them.

    Args:
        stage: A running product of the test's own.
        streams: How many to open.
        rounds: How often each leaf is replaced.
    """
    figures = Figures(streams)
    endpoints = [stage.connector.endpoint(), stage.tunnel.tls_endpoint()]
    cancelled = (await ModernClient(stage.fixture.endpoint()).stats())["cancelled"]
    waiting: list[Reply] = []
    moving: list[_Moving] = []
    async with anyio.create_task_group() as tasks:
        for number in range(streams):
            endpoint = endpoints[number % len(endpoints)]
            if number // len(endpoints) % _WAITING_SHARE == 0:
                waiting.append(await _begin_waiting(endpoint, cancelled + 1))
            else:
                moving.append(await _Moving.begin(endpoint, tasks))
        rounds_of = _Rounds(stage, figures, moving, tasks)
        for _ in range(rounds):
            await rounds_of.once()
        await _see_all_move(moving, figures)
        tasks.cancel_scope.cancel()  # which cancels the calls, and that is what the waiting ones wait for
    for reply in waiting:
        await _see_answer(reply, figures)
    figures.steps = sum(each.steps for each in moving)
    return figures


class _Moving:
    """An event stream that is read as it comes."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.steps = 0
        self.problem = ""
        self.changed = anyio.Event()

    @classmethod
    async def begin(cls, endpoint: Endpoint, tasks: anyio.abc.TaskGroup) -> "_Moving":
        """Open one, and read it in the background."""
        call = tool_call("probe_stream", {"count": _FOREVER, "interval_ms": _STEP_MS}, progressToken=1)
        with anyio.fail_after(_PATIENCE):
            reply = await ModernClient(endpoint).post("tools/call", call)
        assert reply.status == 200, reply.status
        moving = cls(reply)
        tasks.start_soon(moving.read)
        return moving

    async def read(self) -> None:
        """Count the steps until the stream breaks or the test is over."""
        try:
            async with self.reply:
                async for event in self.reply.events():
                    match event.message:
                        case {"params": {"progress": progress}}:
                            if progress != self.steps + 1:
                                self.problem = f"step {progress} came after {self.steps}"
                                return
                            self.steps += 1
                            self._tell()
            self.problem = "it ended"
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError) as error:
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


class _Rounds:
    """The rotations, one leaf after the other."""

    def __init__(
        self, stage: Stage, figures: Figures, moving: list[_Moving], tasks: anyio.abc.TaskGroup
    ) -> None:
        self._stage = stage
        self._figures = figures
        self._moving = moving
        self._tasks = tasks

    async def once(self) -> None:
        """Replace each leaf, and look at the next handshake."""
        leaves = {
            "gateway": self._gateway,
            "link": self._link,
            "relay": self._relay,
            "caller": self._caller,
        }
        for kind, rotate in leaves.items():
            self._figures.rotations[kind] += 1
            self._figures.fresh[kind] += await rotate()

    async def _gateway(self) -> bool:
        stage = self._stage
        serial = await self._rotate("gateway", "gw1", stage.tunnel.identity.gateway("gw1").certificate)
        shown = partial(shown_serial, stage.product.relay_port, stage.tunnel.host("tickets"))
        context = stage.tunnel.only_root_context()
        return await anyio.to_thread.run_sync(shown, context) == serial

    async def _link(self) -> bool:
        """Have a link made with the new leaf: the doctor makes one of its own."""
        stage = self._stage
        serial = await self._rotate("link", "gw1", stage.tunnel.identity.link("gw1").certificate)
        folder = stage.tunnel.folder
        doctor = partial(stage.product.run, "doctor", "--config", "gateway-gw1.yaml", folder=folder)
        await anyio.to_thread.run_sync(doctor)
        assert stage.product.relay is not None
        return bool(stage.product.relay.events("link up", serial=serial))

    async def _relay(self) -> bool:
        """Renew the relay's certificate as its operator would: two files, one after the other."""
        stage, folder = self._stage, self._stage.product.relay_folder
        began = time.monotonic()
        now = x509.load_pem_x509_certificate((folder / "relay.pem").read_bytes()).not_valid_before_utc
        made = make_relay_authority([f"*.link.{DOMAIN}", LOOPBACK], now)
        before = load_certificate(folder / "relay.pem")
        write_public(folder / "relay-ca.pem", encode_certificates([made.authority.certificate]))
        write_private(folder / "relay.key", encode_key(made.key))
        shown = partial(
            shown_serial, stage.product.relay_port, f"{stage.tunnel.label}.link.{DOMAIN}", believing_nothing()
        )
        half = await anyio.to_thread.run_sync(shown)
        write_public(folder / "relay.pem", encode_certificates([made.certificate]))
        whole = await anyio.to_thread.run_sync(shown)
        self._figures.took("relay", began)
        return (half, whole) == (_hex(before), _hex(made.certificate))

    async def _caller(self) -> bool:
        """Replace the bundle, and open streams at the connector until one of them has dialled."""
        stage = self._stage
        path = stage.tunnel.bundle()
        await self._rotate("caller", "agent", path, waits=False)
        serial, began = _hex(Bundle.load(path).leaf), time.monotonic()
        for _ in range(3):  # a connection that lies idle is used first
            self._moving.append(await _Moving.begin(stage.connector.endpoint(), self._tasks))
            if await anyio.to_thread.run_sync(self._has_loaded, serial):
                self._figures.took("caller", began)
                echo = await ModernClient(stage.tunnel.tls_endpoint()).call("probe_echo", text=serial)
                return result_text(echo) == serial
        return False

    def _has_loaded(self, serial: str) -> bool:
        """Say whether the connector has taken a bundle; its log tells a moment later."""
        try:
            self._stage.connector.process.wait_for(
                "certificate loaded", certificate="caller", serial=serial, within=_LOGGED
            )
        except NotReached:
            return False
        return True

    async def _rotate(self, kind: str, name: str, file: Path, *, waits: bool = True) -> str:
        """Rotate with the command, wait until the gateway has taken the leaf, and return its serial."""
        stage = self._stage
        command = partial(
            stage.product.run, "certs", "rotate", "leaf", kind, name, folder=stage.tunnel.folder
        )
        await anyio.to_thread.run_sync(command)
        serial, began = _hex(load_certificate(file)), time.monotonic()
        if waits:
            await anyio.to_thread.run_sync(
                partial(
                    stage.gateway.wait_for,
                    "certificate loaded",
                    certificate=kind,
                    serial=serial,
                    count=len(stage.gateway.events("starting")),  # every worker takes it by itself
                    within=_PICK_UP,
                )
            )
            self._figures.took(kind, began)
        return serial


def shown_serial(port: int, server_name: str, context: ssl.SSLContext) -> str:
    """Shake hands and return the serial number of the certificate that was shown, in hex."""
    with (
        socket.create_connection((LOOPBACK, port), timeout=_PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None, "a handshake of TLS 1.3 shows a certificate"
    return _hex(x509.load_der_x509_certificate(shown))


def believing_nothing() -> ssl.SSLContext:
    """Return a client's context that only looks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _begin_waiting(endpoint: Endpoint, cancelled: int) -> Reply:
    call = tool_call("probe_wait_for", {"counter": "cancelled", "at_least": cancelled})
    return await ModernClient(endpoint).post("tools/call", call, wait=False)


async def _see_all_move(moving: list[_Moving], figures: Figures) -> None:
    """Wait until each stream has brought one more step after the last rotation."""
    before = [each.steps for each in moving]
    with anyio.move_on_after(_PATIENCE):
        for each, steps in zip(moving, before, strict=True):
            while each.steps <= steps and not each.problem:
                await each.changed.wait()
    for number, (each, steps) in enumerate(zip(moving, before, strict=True)):
        if each.problem or each.steps <= steps:
            figures.lost.append(f"event stream {number}: {each.problem or 'it stands still'}")


async def _see_answer(reply: Reply, figures: Figures) -> None:
    try:
        with anyio.fail_after(_PATIENCE):
            async with reply:
                await reply.read_head()
                if (reply.header("Content-Type") or "").startswith("text/event-stream"):
                    # The server makes it a stream when the answer takes long.
                    answer = [event.message async for event in reply.events()][-1]
                else:
                    answer = await reply.json()
                result_text(answer)
    except (OSError, ValueError, asyncio.IncompleteReadError, AssertionError) as error:
        figures.lost.append(f"waiting call: {type(error).__name__}: {error}")


def _hex(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"
