"""
The relay as a process: start-up, supervision, shutdown.

Start-up is strict: a database, certificate or port that cannot be used ends the process with an error before
anybody is served. Afterwards nothing from outside does: a connection's failure is its own, a database that
cannot be read leaves what was known in force, and new certificate files that are bad are not taken.

SIGTERM or SIGINT begins an orderly end: no new connections, GO_AWAY on every link so that gateways go
elsewhere, ten seconds for the streams that are open, then the links are closed and the exit status is 0. A
second signal ends it at once.
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from typing import Final

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from sallyport import __version__
from sallyport.certs.errors import CertificateError
from sallyport.config.logs import joined_lines
from sallyport.config.relay import RelayConfig
from sallyport.relay.arrivals import Arrivals
from sallyport.relay.errors import DatabaseFailed
from sallyport.relay.front import Front
from sallyport.relay.link_contexts import LinkContexts
from sallyport.relay.links import Links, RelaySide
from sallyport.relay.listener import listen
from sallyport.relay.registry import Registry
from sallyport.relay.store import TunnelStore
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.health import CertificateAge, Readiness, serve_health
from sallyport.tunnel.net.life import serve_until_signal
from sallyport.tunnel.net.websocket_codec import chosen_codec
from sallyport.tunnel.windows import MemoryBudget

log = structlog.get_logger("sallyport.relay")

_STORE_INTERVAL: Final = limit(
    1.0, "seconds",
    "between two looks at the database's change number: a running relay sees a change within two",
)  # fmt: skip

DRAIN_TIMEOUT: Final = limit(
    10.0, "seconds",
    "that streams get to end by themselves when the relay stops. Calls are short; a streaming answer that "
    "takes longer is told by its reset, and its caller knows from the connector that it may have run",
)  # fmt: skip

_CLOSE_TIMEOUT: Final = limit(2.0, "seconds", "for the links' closing handshakes after that")


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def run(config: RelayConfig, *, clock: Callable[[], datetime] = _utc_now) -> None:
    """
    Run a relay until SIGTERM or SIGINT.

    Args:
        config: what the operator wrote.
        clock: the time, with a zone, by which certificates are judged.

    Raises:
        RelayError: the port or the database cannot be used.
        CertificateError: the relay's own certificate or key cannot be used.
        ExceptionGroup: of a TunnelError, when the health listener's address cannot be used, or when
            SALLYPORT_CARRIER names no carrier.
    """
    with joined_lines(asyncio.get_running_loop().call_later):
        await serve_until_signal(start(config, clock=clock), log=log)


@asynccontextmanager
async def start(config: RelayConfig, *, clock: Callable[[], datetime] = _utc_now) -> AsyncIterator["Relay"]:
    """
    Start a relay; when the block is left, it is ended at once.

    Args and errors are those of ``run``.
    """
    contexts = LinkContexts(config.tls.certificate, config.tls.key)
    contexts.certificate()
    with (
        closing(TunnelStore(config.database)) as store,
        closing(listen(config.listen.host, config.listen.port)) as listener,
    ):
        async with anyio.create_task_group() as tasks:
            relay = Relay(config, store, contexts, listener=listener, tasks=tasks, clock=clock)
            try:
                await relay.start()
                yield relay
            finally:
                relay.stop()
                tasks.cancel_scope.cancel()


class Relay:
    """
    One running relay; made by ``start``.

    Args:
        config: what the operator wrote.
        store: its database.
        contexts: TLS for links.
        listener: the public socket.
        tasks: where everything runs.
        clock: the time.

    Attributes:
        links: its links, and the registry.
        front: what serves the public port.
        address: where it listens.
        health_address: where its health listener does, if it has one.
    """

    def __init__(
        self,
        config: RelayConfig,
        store: TunnelStore,
        contexts: LinkContexts,
        *,
        listener: socket.socket,
        tasks: TaskGroup,
        clock: Callable[[], datetime],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._config = config
        self._store = store
        self._contexts = contexts
        self._tasks = tasks
        self._clock = clock
        side = RelaySide(boot_id=secrets.token_hex(8), software=f"sallyport {__version__}", clock=clock)
        self.links = Links(
            Registry(), side, budget=MemoryBudget(config.limits.memory), tasks=tasks, loop=loop
        )
        self.front = Front(self.links, contexts, domain=config.domain, tasks=tasks, loop=loop)
        self._arrivals = Arrivals(listener, self.front, loop=loop, balancers=config.proxy_protocol_from)
        self._change_number = -1
        self._database_error: DatabaseFailed | None = None
        self._is_leaving = False
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self.health_address: tuple[str, int] | None = None

    async def start(self) -> None:
        """
        Begin to serve.

        Raises:
            DatabaseFailed: the tunnels cannot be read.
            TunnelError: the health listener's address cannot be used, or SALLYPORT_CARRIER names no carrier.
        """
        carrier = chosen_codec()
        await self._read_store()
        if self._config.health is not None:
            self.health_address = await self._tasks.start(self._serve_health)
        self._tasks.start_soon(self._watch_store)
        self._arrivals.start()
        host, port = self.address
        log.info(
            "listening",
            address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            domain=self._config.domain,
            tunnels=self.links.registry.tunnel_count,
            carrier=carrier,
            health=self.health_address and "{}:{}".format(*self.health_address),
        )

    async def drain(self) -> None:
        """
        End in order: nobody new, time for the streams that are open, then the links.
        """
        log.info("stopping", streams=self.front.stream_count, seconds=DRAIN_TIMEOUT)
        self._is_leaving = True
        self._arrivals.stop()
        self.links.leave()
        with anyio.move_on_after(DRAIN_TIMEOUT) as waiting:
            await self.front.wait_until_idle()
        if waiting.cancelled_caught:
            log.warning("streams cut", streams=self.front.stream_count)
        with anyio.move_on_after(_CLOSE_TIMEOUT):
            for closed in self.links.close():
                await closed

    def stop(self) -> None:
        """
        End at once.
        """
        self._arrivals.stop()
        self.links.close()

    # The database

    async def _watch_store(self) -> None:
        """
        Follow what ``sallyport relay tunnel …`` changes.
        """
        while True:
            await anyio.sleep(_STORE_INTERVAL)
            try:
                await self._read_store()
            except DatabaseFailed as error:
                if self._database_error is None:
                    log.error("database unreadable", reason=str(error), hint=error.hint)
                self._database_error = error
            else:
                self._database_error = None

    async def _read_store(self) -> None:
        """
        Take the tunnels over if anything has changed.
        """
        # The number first: a change in between is read now and once more at the next look.
        number = await to_thread.run_sync(self._store.change_number)
        if number == self._change_number:
            return
        tunnels = await to_thread.run_sync(self._store.tunnels)
        for tunnel in self.links.registry.replace_tunnels(tunnels):
            if self._change_number >= 0:
                log.info("tunnel changed", tunnel=tunnel.id, name=tunnel.name, state=tunnel.state.value)
        self._change_number = number
        self.links.cut_unserved()

    # Health

    async def _serve_health(self, *, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
        address = self._config.health
        if address is None:
            raise AssertionError("only called when there is an address")

        async def ready() -> Readiness:
            return self.readiness()

        async def status() -> dict[str, object]:
            return self.status()

        await serve_health(address, ready=ready, status=status, task_status=task_status)

    def readiness(self) -> Readiness:
        """
        Say whether the relay can do its work now.
        """
        reasons: list[str] = []
        certificates: list[CertificateAge] = []
        if self._is_leaving:
            reasons.append("stopping")
        if self._database_error is not None:
            reasons.append(str(self._database_error))
        try:
            ends = self._contexts.certificate().not_valid_after_utc
        except CertificateError as error:
            reasons.append(str(error))
        else:
            left = ends - self._clock()
            certificates.append(CertificateAge("relay", ends.isoformat(), left.days))
            if left.total_seconds() <= 0:
                reasons.append("the relay's certificate has expired")
        return Readiness(ready=not reasons, reasons=reasons, certificates=certificates)

    def status(self) -> dict[str, object]:
        """
        Describe what is connected.
        """
        return {
            "software": f"sallyport {__version__}",
            "domain": self._config.domain,
            "tunnels": self.links.registry.tunnel_count,
            "streams": self.front.stream_count,
            "arrivals": len(self._arrivals),
            "links_pending": self.links.pending_count,
            "memory": self.links.budget.status(),
            "links": [live.link.status() for live in self.links.registry.links()],
        }
