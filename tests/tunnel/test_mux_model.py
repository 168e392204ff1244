"""
Two muxes against a naive model: random operations, random wires, and what must hold after each.

The model of a stream's direction is a byte string: what was written. What arrives is a beginning of it, on
the right stream, and all of it in the end unless somebody reset the stream.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sallyport.tunnel import limits
from sallyport.tunnel.errors import LimitReached
from sallyport.tunnel.events import StreamFinished, StreamOpened, StreamWasReset
from sallyport.tunnel.frames import ResetCode, StreamId
from tests.harness.mux_pair import End, MuxPair, opening

WINDOW = limits.INITIAL_WINDOW

_SIDES = st.sampled_from(["relay", "gateway"])
_STREAMS = st.integers(1, 6)
_SIZES = st.one_of(st.integers(1, 300), st.integers(1, 3 * WINDOW))

OPERATIONS = st.one_of(
    st.tuples(st.just("open"), _SIDES, _STREAMS, st.integers(0, 2000)),
    st.tuples(st.just("write"), _SIDES, _STREAMS, _SIZES),
    st.tuples(st.just("write"), _SIDES, _STREAMS, _SIZES),
    st.tuples(st.just("finish"), _SIDES, _STREAMS, st.just(0)),
    st.tuples(st.just("reset"), _SIDES, _STREAMS, st.just(0)),
    st.tuples(st.just("stall"), _SIDES, _STREAMS, st.just(0)),
    st.tuples(st.just("wake"), _SIDES, _STREAMS, st.just(0)),
    st.tuples(st.just("hold"), _SIDES, st.just(0), st.just(0)),
    st.tuples(st.just("release"), _SIDES, st.just(0), st.just(0)),
    st.tuples(st.just("wait"), _SIDES, st.just(0), st.integers(0, 3000)),
)


@dataclass
class Model:
    """What was asked for: the naive side of the comparison."""

    written: defaultdict[tuple[str, StreamId], bytearray] = field(
        default_factory=lambda: defaultdict(bytearray)
    )
    finished: set[tuple[str, StreamId]] = field(default_factory=set)
    reset: set[StreamId] = field(default_factory=set)


class World:
    """A pair, its model, and the operations on both."""

    def __init__(self, *, latency: float, capacity: int | None, budget: int) -> None:
        self.pair = MuxPair.up(latency=latency, capacity=capacity, budget=budget)
        self.model = Model()
        self.ends: dict[str, End] = {"relay": self.pair.relay, "gateway": self.pair.gateway}
        self.seed = 0
        for size in (0, 1, 2000):
            self._open(size)
        self.pair.pump()

    def run(self, operation: tuple[str, str, int, int]) -> None:
        """Carry out one operation on the pair and on the model."""
        what, side, number, size = operation
        end, stream = self.ends[side], StreamId(number)
        match what:
            case "open":
                self._open(size)
            case "write" if self._may_write(side, stream):
                data = self._bytes(size)
                self.model.written[side, stream] += data
                end.mux.send_data(stream, data)
            case "finish" if self._may_write(side, stream):
                self.model.finished.add((side, stream))
                end.mux.finish(stream)
            case "reset" if self._is_known(side, stream):
                self.model.reset.add(stream)
                end.unconsumed.pop(stream, None)
                end.mux.reset(stream, ResetCode.CANCELLED)
            case "stall":
                end.stalled.add(stream)
            case "wake":
                end.wake(stream, self.pair.now)
            case "hold" | "release":
                end.is_held = what == "hold"
            case "wait" if not any(other.is_held for other in self.ends.values()):
                self.pair.advance(size / 1000)
        self.pair.pump()
        self.check()

    def settle(self) -> None:
        """Let everybody read, and everything arrive."""
        for end in self.ends.values():
            end.is_held = False
        for end in self.ends.values():
            for stream in list(end.stalled):
                end.wake(stream, self.pair.now)
        self.pair.advance(60)
        self.check()

    def check(self) -> None:
        """Check what must hold at every moment."""
        for side, other in (("relay", "gateway"), ("gateway", "relay")):
            end = self.ends[side]
            assert end.mux.is_ready
            for stream, received in end.received.items():
                assert self.model.written[other, stream].startswith(received)
            for record in end.mux._streams._open.values():
                assert record.credit >= 0
                assert record.window.credit >= 0
        for budget, end in zip(self.pair.budgets, self.ends.values(), strict=True):
            held = sum(end.unconsumed.values())
            assert held <= budget.used <= budget.total + WINDOW * end.mux.stream_count

    def check_end(self) -> None:
        """Check what must hold when everything has arrived: all bytes, all ends, no memory in use."""
        ended_early = self.model.reset | self._ended_by_muxes()
        whole = set(range(1, self.pair.relay.mux._streams.last + 1)) - ended_early
        for (side, stream), written in self.model.written.items():
            if stream in whole:
                other = self.ends["gateway" if side == "relay" else "relay"]
                assert other.received[stream] == written
                finishes = [event for event in other.of(StreamFinished) if event.stream == stream]
                assert len(finishes) == ((side, stream) in self.model.finished)
        self.pair.advance(120)
        for budget in self.pair.budgets:
            assert budget.used == 0
            assert not budget.stalled

    def _open(self, size: int) -> None:
        first = self._bytes(size)
        try:
            stream = self.pair.relay.mux.open_stream(opening(first), self.pair.now)
        except LimitReached:
            return
        self.model.written["relay", stream] += first

    def _is_known(self, side: str, stream: StreamId) -> bool:
        if side == "relay":
            return stream <= self.pair.relay.mux._streams.last
        return any(event.stream == stream for event in self.pair.gateway.of(StreamOpened))

    def _may_write(self, side: str, stream: StreamId) -> bool:
        if (side, stream) in self.model.finished or stream in self.model.reset | self._ended_by_muxes():
            return False
        return self._is_known(side, stream)

    def _ended_by_muxes(self) -> set[StreamId]:
        return {event.stream for end in self.ends.values() for event in end.of(StreamWasReset)}

    def _bytes(self, size: int) -> bytes:
        """Return bytes that no other write has, so that a byte of another stream would be seen."""
        self.seed += 1
        mark = b"<%d>" % self.seed
        return (mark * (size // len(mark) + 1))[:size]


@pytest.mark.parametrize(
    ("latency", "capacity", "budget"),
    [(0.0, None, 64 << 20), (0.05, None, 1 << 20), (0.0, 4096, 64 << 20), (0.05, 100_000, 3 * WINDOW)],
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=st.lists(OPERATIONS, min_size=5, max_size=80))
def test_random_operations(
    latency: float, capacity: int | None, budget: int, operations: list[tuple[str, str, int, int]]
) -> None:
    """Each stream gets its own bytes, whole and in order; credit and memory keep their bounds."""
    world = World(latency=latency, capacity=capacity, budget=budget)
    for operation in operations:
        world.run(operation)
    world.settle()
    world.check_end()
