"""
The workers of a gateway: as many processes as it may use CPUs, and a first one that looks after them.

One event loop fills one CPU. So a gateway is several processes, each with an uplink, a door and connections
to the servers of its own; the relay knows them as links of one gateway (same boot id, another index) and
gives a new stream to the one that has the fewest. A worker that dies takes its own callers with it and is
started again.

    first process ──fork──▶ worker 0   (also listens for health, and asks the others when it is asked)
                  ──fork──▶ worker 1 …

The first process has no event loop and no threads, which is what makes it safe to fork at any time. It waits
for signals, one by one:

* A worker ends: it is started again, after a pause that grows while it keeps ending. If it is the very first
  one, before it was up, the gateway cannot start, and ends with that worker's exit status.
* SIGTERM or SIGINT: every worker is asked to drain. A service manager or a terminal may have sent them the
  same signal already, so a second one means nothing to a worker.
* The second such signal: the *lifeline* is closed, a pipe that only the first process holds open, and the
  workers end at once. The kernel closes it as well when the first process is killed: no worker outlives it.

With one worker there is no first process: the program is the worker.
"""

import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from sallyport.config.gateway import GatewayLimits
from sallyport.gateway.backoff import Backoff
from sallyport.gateway.cpus import usable_cpus
from sallyport.gateway.errors import WorkersUnavailable
from sallyport.tunnel.limits import limit

log = structlog.get_logger("sallyport.gateway")

_AUTOMATIC: Final = limit(
    4, "number",
    "workers that a gateway makes by itself where there are more CPUs: each holds some 15 MiB of its own",
)  # fmt: skip

_WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
# Nothing is due: the wait is for a signal, and so long only because the system call wants a number.
_NOTHING_DUE: Final = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Worker:
    """
    One worker's place in its gateway.

    Attributes:
        index: Which one it is, from 0; also the index of its link.
        count: How many there are.
        boot_id: By which the relay knows that their links are one gateway's.
        lifeline: A descriptor that becomes readable when the worker must end at once; None when it is alone.
        wires: From worker 0 to each other one, or from that one to worker 0; see ``roll_call``.
    """

    index: int = 0
    count: int = 1
    boot_id: str = field(default_factory=lambda: secrets.token_hex(8))
    lifeline: int | None = None
    wires: tuple[socket.socket, ...] = ()
    _started: int | None = None

    def share_of(self, limits: GatewayLimits) -> GatewayLimits:
        """Return this worker's part of what the whole gateway may use: an even one."""
        return limits.model_copy(
            update={
                "memory": limits.memory // self.count,
                "streams_per_caller": -(-limits.streams_per_caller // self.count),
            }
        )

    def tell_started(self) -> None:
        """Tell the first process, if it waits for that, that this worker is up."""
        if self._started is not None:
            os.write(self._started, b"1")
            os.close(self._started)


def worker_count(wanted: int | None) -> int:
    """
    Say how many workers a gateway has.

    Args:
        wanted: What its config says; None for as many as it may use CPUs.

    Raises:
        WorkersUnavailable: More than one is wanted on a system other than Linux.
    """
    if sys.platform != "linux":
        if wanted is not None and wanted > 1:
            raise WorkersUnavailable(wanted)
        return 1
    return min(usable_cpus(Path("/")), _AUTOMATIC) if wanted is None else wanted


def become_worker(count: int) -> Worker:
    """
    Make the workers of a gateway; this returns in each of them, also in those that are started again.

    To be called before there is an event loop or a thread. In the first process it returns never.

    Args:
        count: How many.

    Raises:
        SystemExit: In the first process, when all workers have ended.
    """
    return Worker() if count == 1 else _FirstProcess(count).run()


@dataclass(frozen=True, slots=True)
class _Child:
    index: int
    since: float  # by time.monotonic


class _FirstProcess:
    """
    What looks after the workers.

    Args:
        count: How many.
        draw: Draws evenly from [0, 1), for the pauses before a worker is started again.
    """

    def __init__(self, count: int, *, draw: Callable[[], float] = random.random) -> None:
        self._boot_id = secrets.token_hex(8)
        self._lifeline, self._lifeline_end = os.pipe()
        # Kept here as long as the gateway runs, so that a worker that is started again has the same ones.
        self._wires = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(1, count)]
        self._backoffs = [Backoff(draw) for _ in range(count)]
        self._running: dict[int, _Child] = {}  # by process id
        self._due: dict[int, float] = {}  # when to start which worker, by time.monotonic
        self._is_leaving = False
        self._is_cut = False
        self._has_failed = False

    def run(self) -> Worker:
        """
        Start the workers and look after them; returns in each worker only.

        Raises:
            SystemExit: All have ended.
        """
        worker = self._start_first()
        if worker is not None:
            return worker
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._due = dict.fromkeys(range(1, len(self._backoffs)), 0.0)
        while self._running or self._due:
            # Asked each time, because one that ended before the signals were blocked has sent none.
            self._take_note_of_ended()
            worker = self._start_due()
            if worker is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return worker
            if self._running or self._due:
                self._wait()
        raise SystemExit(int(self._has_failed))

    def _start_first(self) -> Worker | None:
        """
        Start worker 0, and wait until it is up: what is wrong is said once, by the one that finds it.

        Raises:
            SystemExit: It has ended instead.
        """
        reader, writer = os.pipe()
        worker = self._fork(0, started=writer)
        if worker is not None:
            os.close(reader)
            return worker
        os.close(writer)
        is_up = bool(os.read(reader, 1))
        os.close(reader)
        if not is_up:
            (pid,) = self._running
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            raise SystemExit(code if code >= 0 else 128 - code)  # as a shell says it
        return None

    def _start_due(self) -> Worker | None:
        now = time.monotonic()
        for index in [index for index, when in self._due.items() if when <= now]:
            del self._due[index]
            worker = self._fork(index)
            if worker is not None:
                return worker
        return None

    def _fork(self, index: int, *, started: int | None = None) -> Worker | None:
        """Start one worker; returns its place in the worker, and None here."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._running[pid] = _Child(index, time.monotonic())
            return None
        os.close(self._lifeline_end)
        wires = []
        for other, (near, far) in enumerate(self._wires, start=1):
            kept, closed = (near, far) if index == 0 else (far, near)
            closed.close()
            if index in (0, other):
                kept.setblocking(False)
                wires.append(kept)
            else:
                kept.close()
        return Worker(index, len(self._backoffs), self._boot_id, self._lifeline, tuple(wires), started)

    def _wait(self) -> None:
        """Wait until a signal comes or a worker is due, and do what the signal asks."""
        next_due = min(self._due.values(), default=time.monotonic() + _NOTHING_DUE)
        received = signal.sigtimedwait(_WATCHED, max(0.0, next_due - time.monotonic()))
        if received is None or received.si_signo == signal.SIGCHLD:
            return
        if not self._is_leaving:
            self._is_leaving = True
            self._due.clear()
            for pid in self._running:
                os.kill(pid, signal.SIGTERM)
        elif not self._is_cut:
            self._is_cut = True
            os.close(self._lifeline_end)

    def _take_note_of_ended(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._note_ended(pid, os.waitstatus_to_exitcode(status))

    def _note_ended(self, pid: int, code: int) -> None:
        child = self._running.pop(pid, None)
        if child is None:
            return  # Somebody's orphan: as the first process of a container, this one inherits them.
        if self._is_leaving:
            # One that was still on its way up has died of the signal.
            self._has_failed |= code not in (0, -signal.SIGTERM)
            return
        now = time.monotonic()
        backoff = self._backoffs[child.index]
        backoff.lasted(now - child.since)
        pause = backoff.next_delay()
        self._due[child.index] = now + pause
        log.warning(
            "worker ended",
            worker=child.index,
            pid=pid,
            reason=f"exit status {code}" if code >= 0 else signal.Signals(-code).name,
            next_start_seconds=round(pause, 2),
        )
