"""Every state of a stream × every frame: what is in the table is obeyed, what is not ends the stream."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sallyport.tunnel.errors import ProtocolViolation
from sallyport.tunnel.events import Event, StreamFinished, StreamOpened, StreamWasReset
from sallyport.tunnel.frames import (
    FrameType,
    ResetCode,
    StreamId,
    encode,
    encode_credit,
    encode_reset,
)
from sallyport.tunnel.opening import encode_opening
from sallyport.tunnel.stream_state import Input, State, next_state
from tests.harness.mux_pair import End, MuxPair, frames_of, opening

S = StreamId(1)
Step = Callable[[MuxPair, End, End], None]


def _finish(pair: MuxPair, end: End, _: End) -> None:
    end.mux.finish(S)
    pair.pump()


def _peer_finish(pair: MuxPair, _: End, peer: End) -> None:
    peer.mux.finish(S)
    pair.pump()


# How a stream that has just been opened gets into each state, seen from one end.
PATHS: dict[State, list[Step]] = {
    State.OPEN: [],
    State.HALF_CLOSED_LOCAL: [_finish],
    State.HALF_CLOSED_REMOTE: [_peer_finish],
    State.CLOSED: [_finish, _peer_finish],
}

FRAMES: dict[Input, bytes] = {
    Input.DATA_RECEIVED: encode(FrameType.DATA, S, b"data"),
    Input.WINDOW_RECEIVED: encode_credit(FrameType.WINDOW, S, 10),
    Input.RETURN_RECEIVED: encode_credit(FrameType.RETURN, S, 10),
    Input.FINISH_RECEIVED: encode(FrameType.FINISH, S),
    Input.RESET_RECEIVED: encode_reset(S, ResetCode.CANCELLED),
}


@dataclass
class Scene:
    """A stream in some state at one end, whose peer's frames the test writes by hand."""

    pair: MuxPair
    end: End

    def receive(self, frame: bytes) -> list[Event]:
        """Let one frame arrive at the end."""
        return self.end.mux.receive(frame, self.pair.now)

    def sent(self) -> list[int]:
        """Return the types of all frames that the end would send now."""
        kinds = []
        while (message := self.end.mux.message_to_send()) is not None:
            kinds += [kind for kind, _, _ in frames_of(message)]
        return kinds


def scene(side: str, state: State) -> Scene:
    """Open a stream, bring it into a state as one end sees it, and cut the wire."""
    pair = MuxPair.up()
    assert pair.open() == S
    end, peer = (pair.relay, pair.gateway) if side == "relay" else (pair.gateway, pair.relay)
    # A window above the initial size, so that RETURN has something to give back.
    end.mux._streams._open[S].window.size += 1000
    end.mux._streams._open[S].window.credit += 1000
    for step in PATHS[state]:
        step(pair, end, peer)
    return Scene(pair, end)


@pytest.mark.parametrize("side", ["relay", "gateway"])
@pytest.mark.parametrize("state", PATHS)
@pytest.mark.parametrize("happening", FRAMES)
def test_each_state_and_each_frame(side: str, state: State, happening: Input) -> None:
    """A frame that the table has leads to its state; one that it has not resets the stream, and only that."""
    subject = scene(side, state)
    events = subject.receive(FRAMES[happening])
    expected = next_state(state, happening)
    if expected is None:
        assert events == [StreamWasReset(S, ResetCode.PROTOCOL, by_peer=False)]
        assert subject.sent() == [FrameType.RESET]
        expected = State.CLOSED
    elif state is State.CLOSED:
        assert events == []
        assert subject.sent() == []
    assert state_of(subject) == expected
    assert subject.end.mux.is_ready


def state_of(subject: Scene) -> State:
    """Return the state by what the end does next: the public sign of each state is which frames it takes."""
    record = subject.end.mux._streams._open.get(S)
    return State.CLOSED if record is None else record.state


@pytest.mark.parametrize("state", PATHS)
def test_a_second_open_in_each_state(state: State) -> None:
    """OPEN of a number that was used breaks the link, whatever became of that stream."""
    subject = scene("gateway", state)
    with pytest.raises(ProtocolViolation, match="OPEN of stream 1 after stream 1"):
        subject.receive(encode(FrameType.OPEN, S, encode_opening(opening())))


SENDING: dict[Input, Callable[[End], None]] = {
    Input.DATA_SENT: lambda end: end.mux.send_data(S, b"x"),
    Input.FINISH_SENT: lambda end: end.mux.finish(S),
    Input.RESET_SENT: lambda end: end.mux.reset(S, ResetCode.CANCELLED),
}


@pytest.mark.parametrize("side", ["relay", "gateway"])
@pytest.mark.parametrize("state", PATHS)
@pytest.mark.parametrize("happening", SENDING)
def test_each_state_and_each_call(side: str, state: State, happening: Input) -> None:
    """A call that the table has sends its frame; a stream that has ended ignores it; else it is an error."""
    subject = scene(side, state)
    expected = next_state(state, happening)
    if expected is None and state is not State.CLOSED:
        with pytest.raises(RuntimeError, match="stream 1"):
            SENDING[happening](subject.end)
        return
    SENDING[happening](subject.end)
    sent = subject.sent()
    assert sent == ([] if state is State.CLOSED else [FrameType[happening.name.removesuffix("_SENT")]])
    assert state_of(subject) == (expected if expected is not None else State.CLOSED)


def test_nothing_follows_a_finish_that_still_waits() -> None:
    """A stream that was finished takes no more data, also while FINISH waits for credit."""
    pair = MuxPair.up()
    stream = pair.open()
    pair.gateway.stalled.add(stream)
    pair.relay.mux.send_data(stream, bytes(200_000))
    pair.relay.mux.finish(stream)
    pair.pump()
    assert pair.relay.mux.unsent(stream) > 0
    with pytest.raises(RuntimeError, match="after its end"):
        pair.relay.mux.send_data(stream, b"x")
    with pytest.raises(RuntimeError, match="after its end"):
        pair.relay.mux.finish(stream)


def test_credit_is_returned_only_to_a_peer_that_still_sends() -> None:
    """After the peer's FINISH its credit is of no use, and none is sent."""
    subject = scene("gateway", State.OPEN)
    subject.receive(encode(FrameType.DATA, S, bytes(60_000)) + encode(FrameType.FINISH, S))
    subject.end.mux.consumed(S, 60_000, subject.pair.now)
    assert subject.sent() == []


def test_credit_that_waits_is_dropped_at_finish() -> None:
    """WINDOW that was queued and not sent does not follow the peer's FINISH."""
    subject = scene("gateway", State.OPEN)
    subject.receive(encode(FrameType.DATA, S, bytes(60_000)))
    subject.end.mux.consumed(S, 60_000, subject.pair.now)
    subject.receive(encode(FrameType.FINISH, S))
    assert subject.sent() == []


def test_a_peer_that_finishes_gives_back_what_it_was_lent() -> None:
    """After the peer's FINISH its window is not lent any more, though the stream goes on."""
    subject = scene("gateway", State.OPEN)
    subject.receive(encode(FrameType.DATA, S, b"x"))
    subject.end.mux.consumed(S, 1, subject.pair.now)
    assert subject.pair.budgets[1].used == 1000
    subject.receive(encode(FrameType.FINISH, S))
    assert subject.pair.budgets[1].used == 0
    assert state_of(subject) is State.HALF_CLOSED_REMOTE


def test_nothing_is_returned_on_a_finished_stream() -> None:
    """Credit that comes after this end's FINISH is not given back: RETURN after FINISH would be an error."""
    subject = scene("gateway", State.HALF_CLOSED_LOCAL)
    subject.receive(encode_credit(FrameType.WINDOW, S, 1_000_000))
    for _ in range(4):
        subject.pair.now += 15
        subject.end.mux.handle_timer(subject.pair.now)
    assert FrameType.RETURN not in subject.sent()


def test_data_of_a_finished_stream_is_consumed_later() -> None:
    """A stream that ended in order stays counted until its consumer has taken the last byte."""
    subject = scene("gateway", State.HALF_CLOSED_LOCAL)
    budget = subject.pair.budgets[1]
    subject.receive(encode(FrameType.DATA, S, bytes(50_000)) + encode(FrameType.FINISH, S))
    assert (subject.end.mux.stream_count, budget.used) == (1, 50_000)
    subject.end.mux.consumed(S, 20_000, subject.pair.now)
    assert budget.used == 30_000
    subject.end.mux.consumed(S, 30_000, subject.pair.now)
    assert (subject.end.mux.stream_count, budget.used) == (0, 0)


def test_a_consumer_that_gives_up_a_finished_stream() -> None:
    """Resetting a stream that ended in order frees what waits, and tells the peer nothing."""
    subject = scene("gateway", State.HALF_CLOSED_LOCAL)
    subject.receive(encode(FrameType.DATA, S, bytes(50_000)) + encode(FrameType.FINISH, S))
    subject.end.mux.reset(S, ResetCode.CANCELLED)
    assert (subject.end.mux.stream_count, subject.pair.budgets[1].used) == (0, 0)
    assert subject.sent() == []


def test_the_events_of_one_short_stream() -> None:
    """A stream whose whole life is in one message tells its events in order, once."""
    pair = MuxPair.up()
    message = (
        encode(FrameType.OPEN, S, encode_opening(opening(b"first")))
        + encode(FrameType.DATA, S, b"second")
        + encode(FrameType.FINISH, S)
    )
    events = pair.gateway.mux.receive(message, pair.now)
    assert [type(event).__name__ for event in events] == ["StreamOpened", "DataReceived", "StreamFinished"]
    assert events[0] == StreamOpened(S, opening(b"first"))
    assert events[2] == StreamFinished(S)
