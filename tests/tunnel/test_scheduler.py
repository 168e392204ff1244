"""The scheduler: what leaves first, what is joined, and what never grows."""

import pytest
from hypothesis import given, strategies as st

from sallyport.tunnel import limits
from sallyport.tunnel.frames import (
    FrameType,
    ResetCode,
    StreamId,
    encode,
    encode_reset,
    read_credit,
)
from sallyport.tunnel.scheduler import Scheduler, SendLane
from tests.harness.mux_pair import frames_of

KIB = 1024
DATA = FrameType.DATA


class Output(Scheduler):
    """A scheduler whose streams are whatever a test sends data on."""

    def __init__(self) -> None:
        self.open: dict[StreamId, SendLane] = {}
        self.finished: list[StreamId] = []
        super().__init__(self.open, self.finished.append)

    def send(self, lane: SendLane, data: bytes) -> None:
        """Send data of a stream."""
        self.open[lane.stream] = lane
        assert self.send_data(lane.stream, data) == lane.unsent


def lane(stream: int, credit: int = limits.INITIAL_WINDOW) -> SendLane:
    """Return a stream's lane with some credit."""
    made = SendLane(StreamId(stream))
    made.credit = credit
    return made


def pulled(scheduler: Scheduler) -> list[list[tuple[int, int, int]]]:
    """Pull everything: for each message the type, stream and size of its frames."""
    messages = []
    while (message := scheduler.next_message()) is not None:
        messages.append([(kind, stream, len(payload)) for kind, stream, payload in frames_of(message)])
    assert not scheduler.has_output
    return messages


def test_nothing_to_send() -> None:
    """An idle link has no message."""
    scheduler = Output()
    assert not scheduler.has_output
    assert scheduler.next_message() is None


def test_small_frames_are_joined() -> None:
    """What many streams wrote leaves in one message, a frame each."""
    scheduler = Output()
    for stream in range(1, 101):
        scheduler.send(lane(stream), b"x" * 200)
    assert pulled(scheduler) == [[(DATA, stream, 200) for stream in range(1, 101)]]


def test_chunks_of_one_stream_share_a_frame() -> None:
    """Many small writes of one stream become one frame, in order."""
    scheduler, only = Output(), lane(1)
    for number in range(100):
        scheduler.send(only, b"%03d" % number)
    [(_, _, payload)] = frames_of(scheduler.next_message())
    assert payload == b"".join(b"%03d" % number for number in range(100))
    assert only.unsent == 0
    assert only.credit == limits.INITIAL_WINDOW - 300


def test_a_stream_that_is_alone_fills_the_message() -> None:
    """A single bulk stream leaves in the largest frames, byte for byte."""
    scheduler, bulk = Output(), lane(1, credit=1 << 30)
    data = bytes(range(256)) * KIB
    scheduler.send(bulk, data)
    sent = b""
    while (message := scheduler.next_message()) is not None:
        [(_, _, payload)] = frames_of(message)
        assert len(payload) <= limits.DATA_MAX
        sent += payload
    assert sent == data


def test_streams_take_turns() -> None:
    """Two bulk streams alternate; nobody sends more than a turn while the other waits."""
    scheduler = Output()
    for stream in (1, 2):
        scheduler.send(lane(stream, credit=1 << 30), bytes(256 * KIB))
    frames = [frame for message in pulled(scheduler) for frame in message]
    first, second = ([size for _, stream, size in frames if stream == wanted] for wanted in (1, 2))
    assert sum(first) == sum(second) == 256 * KIB
    both = frames[: 2 * min(len(first), len(second)) - 2]
    assert [stream for _, stream, _ in both] == [1, 2] * (len(both) // 2)
    assert all(size <= limits.TURN for _, _, size in both)


def test_a_small_reply_passes_bulk() -> None:
    """A reply that is written behind megabytes leaves after one turn of each stream before it."""
    scheduler = Output()
    for stream in (1, 2, 3):
        scheduler.send(lane(stream, credit=1 << 30), bytes(1024 * KIB))
    scheduler.next_message()
    scheduler.send(lane(9), b"reply")
    before = 0
    for kind, stream, payload in frames_of(scheduler.next_message()):
        assert kind == DATA
        if stream == 9:
            break
        before += len(payload)
    assert stream == 9
    assert before <= 3 * limits.TURN


def test_control_goes_first() -> None:
    """Frames that are not data go ahead of data that was written before them."""
    scheduler = Output()
    scheduler.send(lane(1), bytes(100))
    scheduler.send_window(StreamId(1), 500)
    scheduler.send_control(encode(FrameType.PING, 0, bytes(8)))
    scheduler.send_pong(bytes(8))
    [message] = pulled(scheduler)
    assert [kind for kind, _, _ in message] == [
        FrameType.PONG,
        FrameType.PING,
        FrameType.WINDOW,
        FrameType.DATA,
    ]


def test_no_data_before_its_open() -> None:
    """With more control frames than a message holds, data waits: it might belong to one of them."""
    scheduler = Output()
    for stream in (1, 2, 3):
        scheduler.send_control(encode(FrameType.OPEN, stream, bytes(30_000)))
        scheduler.send(lane(stream), b"x")
    kinds = [[kind for kind, _, _ in message] for message in pulled(scheduler)]
    assert kinds == [[FrameType.OPEN] * 2, [FrameType.OPEN, *[DATA] * 3]]


def test_credit_of_a_stream_is_merged() -> None:
    """Credit that was given in steps leaves in one frame."""
    scheduler = Output()
    for _ in range(1000):
        scheduler.send_window(StreamId(5), 10)
    [(kind, stream, payload)] = frames_of(scheduler.next_message())
    assert (kind, stream, read_credit(memoryview(payload))) == (FrameType.WINDOW, 5, 10_000)


def test_credit_for_more_streams_than_a_message_holds() -> None:
    """All credit leaves, oldest first, in messages of the usual size."""
    scheduler = Output()
    for stream in range(1, 10_001):
        scheduler.send_window(StreamId(stream), 1)
    messages = pulled(scheduler)
    assert [stream for message in messages for _, stream, _ in message] == list(range(1, 10_001))
    assert all(sum(12 + size for _, _, size in message) <= limits.JOINED_MESSAGE for message in messages)


def test_pongs_do_not_grow() -> None:
    """For a peer that pings and does not read, the last few answers are kept."""
    scheduler = Output()
    for number in range(1000):
        scheduler.send_pong(number.to_bytes(8, "big"))
    payloads = [payload for _, _, payload in frames_of(scheduler.next_message())]
    assert payloads == [number.to_bytes(8, "big") for number in range(1000 - limits.PENDING_PONGS, 1000)]


def test_the_control_lane_knows_its_size() -> None:
    """Bytes of control frames are counted when queued and when sent."""
    scheduler = Output()
    frame = encode_reset(StreamId(1), ResetCode.CANCELLED)
    for _ in range(10):
        scheduler.send_control(frame)
    assert scheduler.control_bytes == 10 * len(frame)
    scheduler.next_message()
    assert scheduler.control_bytes == 0


def test_a_stream_without_credit_waits() -> None:
    """Without credit nothing leaves; credit lets exactly as much go."""
    scheduler, poor = Output(), lane(1, credit=0)
    scheduler.send(poor, bytes(100))
    assert not scheduler.has_output
    scheduler.add_credit(poor, 30)
    assert pulled(scheduler) == [[(DATA, 1, 30)]]
    scheduler.add_credit(poor, 1000)
    assert pulled(scheduler) == [[(DATA, 1, 70)]]
    assert poor.credit == 930


def test_finish_goes_behind_its_data() -> None:
    """FINISH leaves after the last byte, also when credit runs out in between."""
    scheduler, ending = Output(), lane(1, credit=60)
    scheduler.send(ending, bytes(100))
    scheduler.finish(ending)
    assert pulled(scheduler) == [[(DATA, 1, 60)]]
    assert scheduler.finished == []
    scheduler.add_credit(ending, 40)
    assert pulled(scheduler) == [[(DATA, 1, 40), (FrameType.FINISH, 1, 0)]]
    assert scheduler.finished == [1]


def test_finish_needs_no_credit() -> None:
    """A stream without data and without credit can end."""
    scheduler, ending = Output(), lane(1, credit=0)
    scheduler.finish(ending)
    assert pulled(scheduler) == [[(FrameType.FINISH, 1, 0)]]


@pytest.mark.parametrize("room", range(40))
def test_finish_at_the_edge_of_a_message(room: int) -> None:
    """Wherever a message ends, no frame is cut and FINISH still comes last."""
    scheduler, ending = Output(), lane(1, credit=1 << 20)
    scheduler.send(ending, bytes(limits.JOINED_MESSAGE - room))
    scheduler.finish(ending)
    frames = [frame for message in pulled(scheduler) for frame in message]
    assert sum(size for _, _, size in frames) == limits.JOINED_MESSAGE - room
    assert frames[-1] == (FrameType.FINISH, 1, 0)


def test_no_slivers() -> None:
    """A frame that would be cut to a few bytes by the message's end waits for the next one."""
    scheduler = Output()
    scheduler.send_control(encode(FrameType.CONTROL, 0, bytes(15_900)))
    for stream in range(1, 5):
        scheduler.send(lane(stream), bytes(16_200))
    first, second = pulled(scheduler)
    assert [size for _, _, size in first] == [15_900, 16_200, 16_200, 16_200]
    assert second == [(DATA, 4, 16_200)]


def test_dropped_data_does_not_leave() -> None:
    """A stream that was reset takes its data and its credit with it."""
    scheduler, dropped = Output(), lane(1)
    scheduler.send(dropped, bytes(100))
    scheduler.send_window(StreamId(1), 10)
    scheduler.drop(StreamId(1))
    assert not scheduler.has_output
    assert scheduler.next_message() is None


def test_a_full_lane_tells_when_it_has_drained() -> None:
    """A writer who was asked to pause hears once when little is left, and not while much is."""
    scheduler, full = Output(), lane(1, credit=0)
    scheduler.send(full, bytes(limits.HIGH_WATER + 1))
    scheduler.add_credit(full, limits.HIGH_WATER - limits.LOW_WATER)
    pulled(scheduler)
    assert scheduler.take_drained() == []
    scheduler.add_credit(full, 1)
    pulled(scheduler)
    assert scheduler.take_drained() == [1]
    scheduler.add_credit(full, limits.LOW_WATER)
    pulled(scheduler)
    assert scheduler.take_drained() == []


def test_a_lane_that_was_never_full_tells_nothing() -> None:
    """Below the high-water mark nobody was asked to pause."""
    scheduler = Output()
    scheduler.send(lane(1), bytes(limits.HIGH_WATER))
    pulled(scheduler)
    assert scheduler.take_drained() == []


def test_clear() -> None:
    """Nothing is left after everything was forgotten."""
    scheduler = Output()
    scheduler.send(lane(1), b"x")
    scheduler.send_window(StreamId(1), 10)
    scheduler.send_pong(bytes(8))
    scheduler.send_control(encode(FrameType.FINISH, 1))
    scheduler.clear()
    assert scheduler.next_message() is None
    assert scheduler.control_bytes == 0


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["data", "finish", "window", "credit", "control", "pong", "drop", "pull"]),
        st.integers(1, 3),
        st.integers(1, 2 * limits.INITIAL_WINDOW),
    ),
    max_size=40,
)


@given(_STEPS)
def test_whether_there_is_output_is_always_known(steps: list[tuple[str, int, int]]) -> None:
    """After whatever was queued, pulled and dropped, ``has_output`` says whether a message would come."""
    scheduler = Output()
    lanes = {number: lane(number, credit=1000) for number in (1, 2, 3)}
    for step, number, size in steps:
        subject = lanes[number]
        match step:
            case "data" if not subject.is_finishing:
                scheduler.send(subject, bytes(size))
            case "finish" if not subject.is_finishing:
                scheduler.finish(subject)
            case "window":
                scheduler.send_window(subject.stream, size)
            case "credit":
                scheduler.add_credit(subject, size)
            case "control":
                scheduler.send_control(encode(FrameType.CONTROL, 0, bytes(size % limits.CONTROL_MAX)))
            case "pong":
                scheduler.send_pong(bytes(8))
            case "drop":
                scheduler.drop(subject.stream)
                lanes[number] = lane(number, credit=1000)
            case "pull":
                had_output = scheduler.has_output
                assert (scheduler.next_message() is not None) == had_output
    pulled(scheduler)
