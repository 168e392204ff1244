"""
A load program: opens event streams and times every event that arrives on them.

One thread and epoll, straight on the TLS sockets: a thousand streams with ten events a second cost it a
fraction of a core. An event holds the clock of its sender, which is this machine's too.
"""

import select
import ssl
import time

from bench.speed.load.callers import LoadFailed, caller_context, connect, entrance_from_json, request_bytes
from bench.speed.load.programs import read_task, report
from bench.speed.system import Entrance

_EVENT = 28  # bytes: "data: ", twenty digits, two newlines
_MARK = b"data: "
_SETTLE = 1.0  # seconds


def main() -> None:
    """Open the streams, wait for a word, listen for as long as the task says, and report what came."""
    task = read_task()
    entrance = entrance_from_json(task["entrance"])
    try:
        streams = _open(task["streams"], entrance, caller_context(entrance))
    except (OSError, LoadFailed) as error:
        report(failed=str(error))
        return
    report(held=len(streams))
    listeners = Listeners(streams)
    # What came while the others were still being opened is taken in before anything is measured.
    listeners.listen(_SETTLE)
    report(settled=True)
    while not select.select([0], [], [], 0)[0]:
        listeners.turn()
    if not read_task():
        return
    began = time.monotonic()
    listeners.delays.clear()
    listeners.since = time.monotonic_ns()
    listeners.listen(task["seconds"])
    seconds = time.monotonic() - began
    delays = sorted(listeners.delays)
    if listeners.ended or not delays:
        report(failed=f"{listeners.ended} of {len(streams)} streams ended, {len(delays)} events")
        return
    report(
        events_per_s=len(delays) / seconds,
        delay_p50_ms=delays[len(delays) // 2] / 1e6,
        delay_p99_ms=delays[int(len(delays) * 0.99)] / 1e6,
        events=len(delays),
    )


def _open(count: int, entrance: Entrance, context: ssl.SSLContext) -> list[ssl.SSLSocket]:
    request = request_bytes(entrance, method="GET", path="/mcp/events")
    streams = []
    for _ in range(count):
        stream = connect(entrance, context)
        stream.sendall(request)
        stream.setblocking(False)
        streams.append(stream)
    return streams


class Listeners:
    """
    Streams that are listened to.

    Attributes:
        delays: Of each event, in nanoseconds.
        since: Events that were sent earlier do not count; by the monotonic clock, in nanoseconds.
        ended: How many streams were ended by the other side.
    """

    def __init__(self, streams: list[ssl.SSLSocket]) -> None:
        self.delays: list[int] = []
        self.ended = 0
        self.since = 0
        self._streams = {stream.fileno(): stream for stream in streams}
        self._rests = dict.fromkeys(self._streams, b"")
        self._epoll = select.epoll()
        for number in self._streams:
            self._epoll.register(number, select.EPOLLIN)

    def listen(self, seconds: float) -> None:
        """Take in what comes for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def turn(self) -> None:
        """Take in what came, waiting for a moment where nothing did."""
        for number, _ in self._epoll.poll(0.05):
            self._take(number)

    def _take(self, number: int) -> None:
        stream = self._streams[number]
        try:
            piece = stream.recv(16384)
            while stream.pending():
                piece += stream.recv(16384)
        except ssl.SSLWantReadError:
            return  # A TLS record that is not whole yet, or one without data.
        except OSError:
            piece = b""
        if not piece:
            self.ended += 1
            self._epoll.unregister(number)
            return
        self._rests[number] = self._count(self._rests[number] + piece)

    def _count(self, data: bytes) -> bytes:
        """Time the whole events in these bytes, pass over heads and chunk sizes, return what is left."""
        now = time.monotonic_ns()
        at = data.find(_MARK)
        while at >= 0 and at + _EVENT <= len(data):
            sent = int(data[at + len(_MARK) : at + _EVENT - 2])
            if sent >= self.since:
                self.delays.append(now - sent)
            data = data[at + _EVENT :]
            at = data.find(_MARK)
        return data[-_EVENT:] if at < 0 else data[at:]


if __name__ == "__main__":
    main()
