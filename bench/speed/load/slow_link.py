"""
A load program: a link with a delay, a rate and loss, as a TCP forwarder.

    caller → public half ← [ this ] ← private half → upstream

Bytes leave it in order, at most at the link's rate, half a round trip after they came. What the link holds in
flight, and half as much again, may be inside in each direction; then it does not read, as a full socket would
not.

Loss is modelled, since a forwarder sees no packets: of the segments of 1,448 bytes that pass, each is "lost"
with the given probability; it and all behind it wait one round trip more, which is what a fast retransmission
costs. What is left out is the congestion control that would also slow the sender down. So the rows with loss
tell what head-of-line stalls do to calls and to windows, and are kinder to bulk than a real lossy path.
"""

import asyncio
import random
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.speed.load.callers import LOOPBACK
from bench.speed.load.programs import read_task, report

_SEGMENT = 1448  # bytes
_SEED = 5  # the same losses for every system that sends the same


@dataclass(frozen=True)
class LinkShape:
    """
    Attributes:
        round_trip: In seconds.
        rate: In bytes a second, each way.
        loss: Probability for each segment.
    """

    round_trip: float
    rate: float
    loss: float

    @property
    def room(self) -> int:
        """How many bytes may be inside in one direction."""
        return int(self.rate * self.round_trip / 2 * 1.5) + 65536


class Direction:
    """
    One way of one connection: what was read and is not yet due.

    Args:
        shape: Of the link.
        chance: For the losses.
    """

    def __init__(self, shape: LinkShape, chance: random.Random) -> None:
        self._shape = shape
        self._chance = chance
        self._inside: deque[tuple[float, bytes | None]] = deque()
        self._held = 0
        self._free_at = 0.0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None

    def take(self, data: bytes | None) -> None:
        """Let bytes enter; None is their end."""
        now = time.monotonic()
        size = len(data or b"")
        self._free_at = max(now, self._free_at) + size / self._shape.rate
        due = self._free_at + self._shape.round_trip / 2
        segments = -(-size // _SEGMENT)
        if self._shape.loss and self._chance.random() > (1 - self._shape.loss) ** segments:
            due += self._shape.round_trip
        self._last_due = max(due, self._last_due)
        self._inside.append((self._last_due, data))
        self._held += size
        if self._held > self._shape.room and self.source is not None:
            self.source.pause_reading()
        self._wait()

    def stop(self) -> None:
        """Forget what is inside: the connection is gone."""
        self._inside.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        if self._timer is None and self._inside and self.sink is not None:
            delay = max(0.0, self._inside[0][0] - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._let_out)

    def _let_out(self) -> None:
        self._timer = None
        assert self.sink is not None
        if self.sink.is_closing():
            self._inside.clear()
            return
        now = time.monotonic()
        while self._inside and self._inside[0][0] <= now:
            _, data = self._inside.popleft()
            if data is None:
                self.sink.close()
                return
            self._held -= len(data)
            self.sink.write(data)
        if self._held < self._shape.room // 2 and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()
        self._wait()

    def attach_sink(self, sink: asyncio.Transport) -> None:
        """Say where the bytes leave; they may have come before it was connected."""
        self.sink = sink
        self._wait()


class Half(asyncio.Protocol):
    """
    One of the two TCP connections of a forwarded one.

    Args:
        inward: What it reads enters here.
        outward: What leaves here, it writes.
        opened: Called with it when it is connected.
    """

    def __init__(self, inward: Direction, outward: Direction) -> None:
        self._inward = inward
        self._outward = outward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not its classes.
        both_ways = cast(asyncio.Transport, transport)
        self._inward.source = both_ways
        self._outward.attach_sink(both_ways)

    def data_received(self, data: bytes) -> None:
        self._inward.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._outward.stop()
        self._inward.take(None)


class SlowLink:
    """
    The forwarder.

    Args:
        shape: Of each connection; they do not share the rate.
        target: The port on loopback that it forwards to.
    """

    def __init__(self, shape: LinkShape, target: int) -> None:
        self._shape = shape
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._chance = random.Random(_SEED)

    def accept(self) -> Half:
        """Make the near half of a new connection and dial the far one."""
        there, back = Direction(self._shape, self._chance), Direction(self._shape, self._chance)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._dial(there, back))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Half(there, back)

    async def _dial(self, there: Direction, back: Direction) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Half(back, there), LOOPBACK, self._target
            )
        except OSError:
            # The near half learns it as the end of its connection.
            back.take(None)


async def _serve(shape: LinkShape, target: int) -> None:
    link = SlowLink(shape, target)
    server = await asyncio.get_running_loop().create_server(link.accept, LOOPBACK, 0, backlog=1024)
    report(port=server.sockets[0].getsockname()[1])
    async with server:
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Forward until the standard input ends."""
    task = read_task()
    shape = LinkShape(task["round_trip"], task["rate"], task["loss"])
    uvloop.run(_serve(shape, task["target"]))


if __name__ == "__main__":
    main()
