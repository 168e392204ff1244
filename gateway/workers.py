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
  one, before it was up, the gateway cannot start, and ends with that worker's exit status. The others are
  started when that one is up: what forbids a start is said once.
* SIGTERM or SIGINT: every worker is asked to drain. A service manager or a terminal may have sent them the
  same signal already, so a second one means nothing to a worker.
* The second such signal: the *lifeline* is closed, a pipe that only the first process holds open, and the
  workers end at once; one that hangs is killed. The kernel closes the lifeline as well when the first process
  is killed, so that no worker which runs outlives it.

With one worker there is no first process: the program is the worker.
"""

import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import structlog

from sallyport.gateway.attendance import SharedCounts, clear_row, shared_table
from sallyport.gateway.backoff import Backoff
from sallyport.gateway.cpus import usable_cpus
from sallyport.gateway.errors import CannotFork, WorkersUnavailable
from sallyport.gateway.roster import Roster
from sallyport.tunnel.limits import limit

log = structlog.get_logger("sallyport.gateway")

_AUTOMATIC: Final = limit(
    4, "number",
    "workers that a gateway makes by itself where there are more CPUs: each holds some 20 MiB of its own",
)  # fmt: skip

_HEALTH_PAUSE: Final = limit(
    1.0, "seconds",
    "before worker 0 is started again, at most: it listens for health, and a supervisor that hears nothing "
    "ends the whole gateway",
)  # fmt: skip
_LAST_WORD: Final = limit(
    3.0, "seconds", "that a worker which must end at once may take for it, before it is killed"
)

_SLOW_START: Final = limit(
    30.0, "seconds",
    "after which the log says that the first worker is not up yet: it has a few files to read, which takes a "
    "fraction of one, unless the disk behind them hangs",
)  # fmt: skip

_WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
# How a worker ends that was asked to before it could listen: by the signal, or as Python says an interrupt.
_ASKED_EARLY: Final = frozenset({-signal.SIGTERM, -signal.SIGINT, 130})
_LOOK_INTERVAL = 0.02  # seconds between two looks whether the first worker is up
# Nothing is due: the wait is for a signal, and so long only because the system call wants a number.
_NOTHING_DUE = 3600.0  # seconds


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
        shared_counts: Where all of them count callers' connections; None when it is alone.
        roster: Which of them run; None when it is alone.
        joins: Whether the gateway is up already: the worker takes the place of one that has ended, or is not
            the first.
    """

    index: int = 0
    count: int = 1
    boot_id: str = field(default_factory=lambda: secrets.token_hex(8))
    lifeline: int | None = None
    wires: tuple[socket.socket, ...] = ()
    shared_counts: SharedCounts | None = None
    roster: Roster | None = None
    joins: bool = False
    _started: int | None = None

    def share_of(self, memory: int) -> int:
        """Return this worker's part of the bytes that the whole gateway may hold: an even one."""
        return memory // self.count

    def runs(self, index: int) -> bool:
        """Say whether another worker runs, be it well or not."""
        return self.roster is not None and self.roster.runs(index)

    @property
    def others_are_leaving(self) -> bool:
        """Whether the gateway is about to end and other workers of it still run."""
        return self.roster is not None and self.roster.is_leaving and self.roster.others_run(self.index)

    def tell_started(self) -> None:
        """Tell the first process, if it waits for that, that this worker is up."""
        if self._started is not None:
            with suppress(BrokenPipeError):  # It has gone meanwhile, and the lifeline will say so.
                os.write(self._started, b"1")
            os.close(self._started)


def worker_count(wanted: int | Literal["auto"]) -> int:
    """
    Say how many workers a gateway has.

    Args:
        wanted: What its config says; ``auto`` is as many as it may use CPUs, up to a bound.

    Raises:
        WorkersUnavailable: More than one is wanted on a system other than Linux.
    """
    if sys.platform != "linux":
        if wanted != "auto" and wanted > 1:
            raise WorkersUnavailable(wanted)
        return 1
    return min(usable_cpus(Path("/")), _AUTOMATIC) if wanted == "auto" else wanted


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
    """

    def __init__(self, count: int) -> None:
        self._boot_id = secrets.token_hex(8)
        self._lifeline, self._lifeline_end = os.pipe()
        # Kept here as long as the gateway runs, so that a worker that is started again has the same ones.
        self._wires = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(1, count)]
        self._table = shared_table(count)
        self._hash_key = secrets.token_bytes(16)
        self._roster = Roster(count)
        self._first_up, self._started = os.pipe()
        os.set_blocking(self._first_up, False)
        self._backoffs = [Backoff(random.random) for _ in range(count)]
        self._running: dict[int, _Child] = {}  # by process id
        self._due = {0: 0.0}  # when to start which worker, by time.monotonic
        self._is_first_up = False
        self._warn_at: float | None = time.monotonic() + _SLOW_START  # until worker 0 is up
        self._is_leaving = False
        self._kill_at: float | None = None  # when those are killed that should have ended at once
        self._status = 0

    def run(self) -> Worker:
        """
        Start the workers and look after them; returns in each worker only.

        Raises:
            CannotFork: Not even the first one.
            SystemExit: All have ended.
        """
        # Whoever started us may ignore it, and then the kernel would not keep for us how a worker ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        while True:
            self._take_note_of_ended()
            self._look_for_first()
            worker = self._start_due()
            if worker is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return worker
            if not (self._running or self._due):
                raise SystemExit(self._status)
            self._wait()

    # Starting

    def _look_for_first(self) -> None:
        """See whether worker 0 is up for the first time; then the others are due."""
        if self._is_first_up or self._is_leaving:
            return
        with suppress(BlockingIOError):
            self._is_first_up = bool(os.read(self._first_up, 1))
        if self._is_first_up:
            self._due.update(dict.fromkeys(range(1, len(self._backoffs)), 0.0))
        elif self._warn_at is not None and time.monotonic() >= self._warn_at:
            self._warn_at = None
            log.warning("worker 0 is not up yet", seconds=_SLOW_START, pids=list(self._running))

    def _start_due(self) -> Worker | None:
        now = time.monotonic()
        for index in [index for index, when in self._due.items() if when <= now]:
            del self._due[index]
            try:
                worker = self._fork(index)
            except OSError as error:  # no process or no memory to be had; the other workers go on
                if not self._is_first_up:
                    raise CannotFork(error) from error
                log.warning(
                    "worker not started",
                    worker=index,
                    reason=error.strerror,
                    next_start_seconds=self._due_again(index),
                )
                continue
            if worker is not None:
                return worker
        return None

    def _due_again(self, index: int) -> float:
        """Have a worker started again, and return in how many seconds."""
        pause = self._backoffs[index].next_delay()
        if index == 0:
            pause = min(pause, _HEALTH_PAUSE)
        self._due[index] = time.monotonic() + pause
        return round(pause, 2)

    def _fork(self, index: int) -> Worker | None:
        """
        Start one worker; returns its place in the worker, and None here.

        Raises:
            OSError: There is no process to be had.
        """
        for stream in (sys.stdout, sys.stderr):
            # What waits there would be written twice. A reader that has gone must not end the workers.
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        pid = os.fork()
        if pid:
            self._running[pid] = _Child(index, time.monotonic())
            self._roster.note(index, runs=True)
            return None
        os.close(self._lifeline_end)
        os.close(self._first_up)
        return Worker(
            index,
            len(self._backoffs),
            self._boot_id,
            self._lifeline,
            tuple(self._own_wires(index)),
            SharedCounts(self._table, index, self._hash_key),
            self._roster,
            self._is_first_up,
            self._started,
        )

    def _own_wires(self, index: int) -> Iterator[socket.socket]:
        """Pick a worker's ends of the wires, and close the others."""
        for other, (near, far) in enumerate(self._wires, start=1):
            kept, closed = (near, far) if index == 0 else (far, near)
            closed.close()
            if index in (0, other):
                kept.setblocking(False)
                yield kept
            else:
                kept.close()

    # Waiting

    def _wait(self) -> None:
        """Wait until a signal comes or something is due, and do what the signal asks."""
        now = time.monotonic()
        moments = [*self._due.values(), now + (_NOTHING_DUE if self._is_first_up else _LOOK_INTERVAL)]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        received = signal.sigtimedwait(_WATCHED, max(0.0, min(moments) - now))
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._signal_all(signal.SIGKILL)
        if received is None or received.si_signo == signal.SIGCHLD:
            return
        if not self._is_leaving:
            self._is_leaving = True
            self._roster.note_leaving()
            self._due.clear()
            self._signal_all(signal.SIGTERM)
        elif self._lifeline_end >= 0:
            os.close(self._lifeline_end)
            self._lifeline_end = -1
            self._kill_at = time.monotonic() + _LAST_WORD

    def _signal_all(self, signum: signal.Signals) -> None:
        for pid in self._running:
            os.kill(pid, signum)

    def _take_note_of_ended(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            # Or somebody's orphan: as the first process of a container, this one inherits them.
            if pid in self._running:
                self._note_ended(pid, self._running.pop(pid), os.waitstatus_to_exitcode(status))

    def _note_ended(self, pid: int, child: _Child, code: int) -> None:
        self._roster.note(child.index, runs=False)
        clear_row(self._table, child.index)
        if self._is_leaving:
            if code not in _ASKED_EARLY:
                self._status = self._status or _as_status(code)
            return
        self._look_for_first()  # It may have come up and ended since the last look.
        if not self._is_first_up:
            self._is_leaving = True
            self._status = _as_status(code)
            return
        self._backoffs[child.index].lasted(time.monotonic() - child.since)
        log.warning(
            "worker ended",
            worker=child.index,
            pid=pid,
            reason=f"exit status {code}" if code >= 0 else signal.Signals(-code).name,
            next_start_seconds=self._due_again(child.index),
        )


def _as_status(code: int) -> int:
    """Return an exit status for how a worker ended, as a shell says it."""
    return code if code >= 0 else 128 - code
