"""
The gateway as a process: start-up, supervision, shutdown.

Start-up is strict: an identity, a server or a health address that cannot be used ends the process with an
error before the relay is dialled. Afterwards nothing from outside does: the relay may go away and come back,
servers may be down, callers may do what they like.

SIGTERM or SIGINT begins an orderly end: GO_AWAY to the relay, which gives this gateway no new streams; calls
under way get thirty seconds; connections close as they fall idle; the exit status is 0. A second signal ends
it at once.

A gateway of several workers is several of these, one in each process; ``workers`` looks after them. Worker 0
does what one must do for all: it listens for health, and warns of certificates.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from sallyport import __version__
from sallyport.certs.contexts import door_context, root_giving_context
from sallyport.config.fields import Address
from sallyport.config.gateway import GatewayConfig
from sallyport.config.logs import joined_lines
from sallyport.gateway.door import Door, DoorContexts
from sallyport.gateway.identity import GatewayIdentity, load_identity, uplink_settings
from sallyport.gateway.keyring import Keyring
from sallyport.gateway.own_certificates import OwnCertificates
from sallyport.gateway.roll_call import RollAnswer, RollCall
from sallyport.gateway.routes import Routes
from sallyport.gateway.servers import open_servers
from sallyport.gateway.service import Gateway
from sallyport.gateway.uplink import Uplink
from sallyport.gateway.whole_status import Report, whole_readiness, whole_status
from sallyport.gateway.workers import Worker
from sallyport.gateway.yardstick import Yardstick
from sallyport.tunnel.limits import limit
from sallyport.tunnel.net.health import CertificateAge, Readiness, serve_health
from sallyport.tunnel.net.life import serve_until_signal
from sallyport.tunnel.net.websocket_codec import chosen_codec
from sallyport.tunnel.windows import MemoryBudget

log = structlog.get_logger("sallyport.gateway")

DRAIN_SECONDS: Final = limit(30.0, "seconds", "that calls under way get when the gateway stops")
# Seconds between two looks for connections that have fallen idle meanwhile. One whose first request is on
# its way when the drain begins has about so long to bring it.
_DRAIN_INTERVAL = 0.5
# Seconds between two looks whether other workers still run. The first comes after so long, because the first
# process may hear of a signal a moment after its workers.
_COMPANY_INTERVAL = 0.1

_DAY_SECONDS = 24 * 3600.0
_WARN_DAYS = 14


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def run(config: GatewayConfig, worker: Worker, *, clock: Callable[[], datetime] = _utc_now) -> None:
    """
    Run a gateway, or one of its workers, until SIGTERM or SIGINT.

    Args:
        config: What the operator wrote.
        worker: Which of the gateway's workers this is.
        clock: The time, with a zone, by which certificates are judged.

    Raises:
        CertificateError: The identity cannot be used, and why.
        GatewayError: The config does not fit the identity, or names a server or a keys file that cannot be
            used.
        TunnelError: The health listener's address cannot be used, or SALLYPORT_CARRIER names no carrier.
    """
    with joined_lines(asyncio.get_running_loop().call_later):
        await serve_until_signal(start(config, worker, clock=clock), log=log, lifeline=worker.lifeline)


@asynccontextmanager
async def start(
    config: GatewayConfig, worker: Worker | None = None, *, clock: Callable[[], datetime] = _utc_now
) -> AsyncIterator["App"]:
    """
    Start a gateway; when the block is left, it is ended at once.

    Args and errors are those of :func:`run`; without a worker it is the whole gateway.
    """
    worker = worker or Worker()
    identity = load_identity(config, now=clock())
    async with anyio.create_task_group() as tasks:
        app = App(config, identity, worker, tasks=tasks, clock=clock)
        try:
            await app.start()
            worker.tell_started()
            yield app
        finally:
            app.stop()
            tasks.cancel_scope.cancel()


class App:
    """
    One running gateway, or one of its workers; made by :func:`start`.

    Args:
        config: What the operator wrote.
        identity: Its identity, judged.
        worker: Which of the gateway's workers it is.
        tasks: Where everything runs.
        clock: The time.
    """

    def __init__(
        self,
        config: GatewayConfig,
        identity: GatewayIdentity,
        worker: Worker,
        *,
        tasks: TaskGroup,
        clock: Callable[[], datetime],
    ) -> None:
        loop = asyncio.get_running_loop()
        label, domains = identity.tunnel.label, identity.domains
        servers = open_servers(config.servers, loop=loop, spawn=tasks.create_task)
        configs = dict(zip(servers, config.servers.values(), strict=True))
        routes = Routes.of(configs, label=label, domains=domains)
        self._config = config
        self._identity = identity
        self._worker = worker
        self._tasks = tasks
        self._clock = clock
        self._started = time.monotonic()
        self._is_leaving = False
        self._keys = Keyring(config.keys.file) if config.keys is not None else None
        self._certificates = OwnCertificates(identity, make_context=self._make_contexts, clock=clock)
        self.gateway = Gateway(
            config.tunnel.name,
            routes,
            servers,
            limits=config.limits,
            keys=self._keys,
            shared_counts=worker.shared_counts,
            yardstick=Yardstick(loop=loop, spawn=tasks.create_task),
            loop=loop,
            now=clock,
        )
        self._door = Door(
            self._certificates.door_contexts,
            label=label,
            domains=domains,
            calls=self.gateway,
            loop=loop,
        )
        self._budget = MemoryBudget(worker.share_of(config.limits.memory))
        settings = replace(uplink_settings(config, identity), boot_id=worker.boot_id, index=worker.index)
        self.uplink = Uplink(settings, self._door, budget=self._budget)
        self._roll_call: RollCall | RollAnswer = (
            RollCall(worker.wires, runs=worker.runs, loop=loop)
            if worker.index == 0
            else RollAnswer(worker.wires[0], self._report, loop=loop)
        )
        self.health_address: tuple[str, int] | None = None

    async def start(self) -> None:
        """
        Listen for health, and begin to dial the relay.

        Raises:
            TunnelError: The health listener's address cannot be used, or SALLYPORT_CARRIER names no carrier.
            KeysUnusable: There is a keys file, and it cannot be used. One that is missing may come later.
        """
        carrier = chosen_codec()
        if self._keys is not None:
            self._keys.require_usable()
        if isinstance(self._roll_call, RollCall) and self._config.health is not None:
            address, others = self._config.health, self._roll_call
            self.health_address = await self._tasks.start(partial(self._serve_health, address, others))
        log.info(
            "starting",
            workers=self._worker.count,
            gateway=self._config.tunnel.name,
            tunnel=str(self._identity.tunnel),
            relay=self.uplink.settings.address,
            servers=list(self.gateway.servers),
            keys=str(self._keys.path) if self._keys is not None else "off",
            carrier=carrier,
            health=self.health_address and "{}:{}".format(*self.health_address),
        )
        self._tasks.start_soon(self._certificates.watch, self._show)
        if self._worker.index == 0:
            self._tasks.start_soon(self._report_certificates)
        self._tasks.start_soon(self.uplink.run)

    async def drain(self) -> None:
        """Take no new streams, and give the calls under way their time."""
        log.info("stopping", streams=self.uplink.stream_count, seconds=DRAIN_SECONDS)
        self._is_leaving = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._close_idle_connections)
            await self.uplink.drain(DRAIN_SECONDS)
            tasks.cancel_scope.cancel()
        if self._worker.index == 0 and self._worker.count > 1:
            log.info("worker 0 leaves last")
            await self._leave_last()

    def stop(self) -> None:
        """End at once what is not a task."""
        self.gateway.close()
        self._roll_call.close()

    async def _close_idle_connections(self) -> None:
        while True:
            self.gateway.drain()
            await anyio.sleep(_DRAIN_INTERVAL)

    async def _leave_last(self) -> None:
        """Answer for the gateway's health until no other worker runs, however long one of them takes."""
        while True:
            await anyio.sleep(_COMPANY_INTERVAL)
            if not self._worker.others_are_leaving:
                return

    def _make_contexts(self) -> DoorContexts:
        leaf, root = self._identity.gateway, self._identity.root
        if self._keys is None:
            return DoorContexts(door_context(leaf, root))
        # Keys, whether or not one exists, are what makes certificates optional: for the whole gateway.
        return DoorContexts(
            door_context(leaf, root, certificate_required=False), root_giving_context(leaf, root)
        )

    def _show(self, contexts: DoorContexts) -> None:
        """Let the door's next handshake show another certificate; those that are done are not touched."""
        self._door.contexts = contexts

    async def _report_certificates(self) -> None:
        """Write the daily line, and a warning for each certificate that ends soon."""
        while True:
            ages = self._ages()
            log.info("certificates", days_left={age.name: age.days_left for age in ages})
            for age in ages:
                if age.days_left < _WARN_DAYS:
                    log.warning(
                        "certificate ends soon",
                        certificate=age.name,
                        not_after=age.not_after,
                        days_left=age.days_left,
                    )
            await anyio.sleep(_DAY_SECONDS)

    # Health

    async def _serve_health(
        self, address: Address, others: RollCall, *, task_status: TaskStatus[tuple[str, int]]
    ) -> None:
        async def ready() -> Readiness:
            own = self.readiness()
            return own if own.ready else whole_readiness(own, await others.ask())

        async def status() -> dict[str, object]:
            return whole_status([self._report(), *await others.ask()])

        await serve_health(address, ready=ready, status=status, task_status=task_status)

    def _report(self) -> Report:
        """Say to worker 0 how this worker is."""
        return {"status": self.status(), "reasons": self.readiness().reasons}

    def readiness(self) -> Readiness:
        """Say whether this worker can serve callers now."""
        ages = self._ages()
        reasons = [f"the {age.name} certificate has expired" for age in ages if age.days_left < 0]
        if self._is_leaving:
            reasons.append("stopping")
        elif not self.uplink.state.connected:
            reasons.append(self.uplink.state.last_error or "the link to the relay is not up yet")
        return Readiness(ready=not reasons, reasons=reasons, certificates=ages)

    def status(self) -> dict[str, object]:
        """Describe this worker: its link, its servers, its certificates."""
        state, rtt = self.uplink.state, self.uplink.rtt
        return {
            "software": f"sallyport {__version__}",
            "gateway": self._config.tunnel.name,
            "tunnel": str(self._identity.tunnel),
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._started),
            "relay": {
                "address": self.uplink.settings.address,
                "link": "stopping" if self._is_leaving else "up" if state.connected else "down",
                "since": datetime.fromtimestamp(state.since, UTC).isoformat(timespec="seconds"),
                "attempts": state.attempts,
                "last_error": state.last_error,
                "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
                "clock_offset_seconds": state.clock_offset,
            },
            "streams": self.uplink.stream_count,
            "tasks": len(asyncio.all_tasks()),
            "callers": {"admitted": self._door.counts.admitted, "refused": self._door.counts.refused},
            "memory": self._budget.status(),
            "servers": [server.status() for server in self.gateway.servers.values()],
            "certificates": [
                {"name": age.name, "not_after": age.not_after, "days_left": age.days_left}
                for age in self._ages()
            ],
            "certificates_not_taken": self._certificates.problems,
        }

    def _ages(self) -> list[CertificateAge]:
        return list(self._certificates.ages(self._clock()))
