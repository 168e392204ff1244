"""
The scheduler: what goes into the next message (SPEC.md §10).

Two classes of frames. *Control* frames go first and never wait for data: answers to PING, then frames in
the order in which they were made, then credit. *Data* goes by turns: each stream that has data and credit
sends one frame of at most ``TURN`` bytes and goes to the end of the queue, so that a small reply passes a
bulk transfer after one turn of each other stream. A stream that is alone uses the whole message. FINISH
goes behind its stream's data; a stream that is reset takes its data with it.

Decisions are made when a message is pulled and not before, so whoever pulls should do it as late as he can.

What a peer can make us queue is bounded: credit of one stream merges into one frame, PONGs beyond a few are
dropped, and the mux ends a link whose other control frames pass ``CONTROL_LANE``.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from sallyport.tunnel.frames import (
    DATA_WORD,
    HEADER_SIZE,
    HEADER_WORDS,
    FrameType,
    StreamId,
    encode,
    encode_credit,
)
from sallyport.tunnel.limits import (
    DATA_MAX,
    HIGH_WATER,
    INITIAL_WINDOW,
    JOINED_MESSAGE,
    LOW_WATER,
    PENDING_PONGS,
    TURN,
)

_HEADER_OF: Final = HEADER_WORDS.pack
_CREDIT_FRAME: Final = HEADER_SIZE + 4
# A frame that the end of a message would cut to less than this waits for the next message instead.
_SLIVER: Final = 1024

_Pieces = list[bytes | memoryview]


class SendLane:
    """
    One stream's data on its way out.

    Args:
        stream: The stream's number.

    Attributes:
        stream: The stream's number.
        credit: What the peer still takes, in bytes.
        unsent: Bytes that wait.
        is_finishing: Whether FINISH follows the data.
        has_sent: Whether data left since somebody last set this to False.
    """

    __slots__ = ("chunks", "credit", "has_sent", "is_finishing", "is_full", "stream", "unsent")

    def __init__(self, stream: StreamId) -> None:
        self.stream: Final = stream
        # A list and not a deque, which would cost an idle stream 600 bytes.
        self.chunks: Final[_Pieces] = []
        self.credit = INITIAL_WINDOW
        self.unsent = 0
        self.is_finishing = False
        self.is_full = False
        self.has_sent = False

    def take_part(self, count: int, pieces: _Pieces) -> None:
        """Move so many waiting bytes to a message, fewer than there are."""
        chunks = self.chunks
        whole = 0
        while len(chunks[whole]) <= count:
            count -= len(chunks[whole])
            whole += 1
        pieces += chunks[:whole]
        del chunks[:whole]
        if count:
            view = memoryview(chunks[0])
            pieces.append(view[:count])
            chunks[0] = view[count:]


class Scheduler:
    """
    One link's output.

    Args:
        lanes: The streams that are open, by number; whoever begins and ends them keeps it.
        finish_left: Told of each stream whose FINISH is in the message that is being made.

    Attributes:
        control_bytes: Bytes of control frames that wait, other than credit and PONGs.
        drained: Streams that fell to ``LOW_WATER`` after passing ``HIGH_WATER``, until they are taken.
        has_output: Whether ``next_message`` has something. It is asked for more often than anything is
            queued, so it is kept and not worked out.
    """

    __slots__ = (
        "_control",
        "_finish_left",
        "_lanes",
        "_pongs",
        "_turns",
        "_windows",
        "control_bytes",
        "drained",
        "has_output",
    )

    def __init__(
        self, lanes: Mapping[StreamId, SendLane], finish_left: Callable[[StreamId], None]
    ) -> None:
        self._lanes: Final = lanes
        self._finish_left: Final = finish_left
        self.has_output = False
        self.control_bytes = 0
        self._control: Final[deque[bytes]] = deque()
        self._pongs: Final[deque[bytes]] = deque(maxlen=PENDING_PONGS)
        self._windows: Final[dict[StreamId, int]] = {}
        self._turns: Final[OrderedDict[StreamId, SendLane]] = OrderedDict()
        self.drained: list[StreamId] = []

    # Queueing

    def send_control(self, frame: bytes) -> None:
        """Queue a control frame behind those that wait."""
        self._control.append(frame)
        self.control_bytes += len(frame)
        self.has_output = True

    def send_pong(self, payload: bytes) -> None:
        """Queue a PONG; the oldest is dropped when the peer does not read."""
        self._pongs.append(encode(FrameType.PONG, 0, payload))
        self.has_output = True

    def send_window(self, stream: StreamId, credit: int) -> None:
        """Queue credit; what waits for the same stream goes in one frame."""
        self._windows[stream] = self._windows.get(stream, 0) + credit
        self.has_output = True

    def send_data(self, stream: StreamId, data: bytes | bytearray | memoryview) -> int:
        """
        Queue data; it leaves as credit and the other streams allow. What is not ``bytes`` is copied.

        Returns:
            How many bytes of the stream are queued and not yet pulled; 0 for one that has ended.

        Raises:
            RuntimeError: After ``finish``.
        """
        lane = self._lanes.get(stream)
        if lane is None:
            return 0
        if not data:
            return lane.unsent
        if lane.is_finishing:
            raise RuntimeError(f"data on stream {stream} after its end")
        # What is not ``bytes`` may be changed or taken back by its owner before it leaves.
        lane.chunks.append(data if type(data) is bytes else bytes(data))
        lane.unsent = unsent = lane.unsent + len(data)
        if unsent > HIGH_WATER:
            lane.is_full = True
        if lane.credit:
            self._turns[stream] = lane
            self.has_output = True
        return unsent

    def finish(self, lane: SendLane) -> None:
        """Queue FINISH behind the stream's data."""
        lane.is_finishing = True
        if lane.credit or not lane.unsent:
            self._turns[lane.stream] = lane
            self.has_output = True

    def add_credit(self, lane: SendLane, credit: int) -> None:
        """Let a stream send more."""
        lane.credit += credit
        if lane.unsent:
            self._turns[lane.stream] = lane
            self.has_output = True

    def drop(self, stream: StreamId) -> None:
        """Forget a stream's data and credit: it was reset, or its receiving side has ended."""
        self._turns.pop(stream, None)
        self.drop_credit(stream)

    def drop_credit(self, stream: StreamId) -> None:
        """Forget credit that a stream's peer does not need any more."""
        self._windows.pop(stream, None)
        self.has_output = bool(self._turns or self._control or self._windows or self._pongs)

    def clear(self) -> None:
        """Forget everything."""
        self.control_bytes = 0
        self._control.clear()
        self._pongs.clear()
        self._windows.clear()
        self._turns.clear()
        self.has_output = False

    # Sending

    def next_message(self) -> bytes | None:
        """Make the next message, or None when nothing may go."""
        pieces: _Pieces = []
        room, turns = JOINED_MESSAGE, self._turns
        if self._control or self._windows or self._pongs:
            room = self._add_control(pieces, room)
        # Streams get their turns until the message is full or nobody may send.
        while turns and room > HEADER_SIZE:
            stream, lane = turns.popitem(False)
            # When nobody else waits a large frame delays nobody; alone in a message it may fill it.
            most = TURN - HEADER_SIZE if turns else DATA_MAX
            size = lane.unsent
            if size > lane.credit:
                size = lane.credit
            if size > most:
                size = most
            if pieces and size > room - HEADER_SIZE:
                size = room - HEADER_SIZE
                if size < _SLIVER:
                    turns[stream] = lane
                    turns.move_to_end(stream, last=False)
                    break
            if size:
                pieces.append(_HEADER_OF(DATA_WORD, stream, size))
                if size == lane.unsent:
                    pieces += lane.chunks
                    lane.chunks.clear()
                else:
                    lane.take_part(size, pieces)
                room -= HEADER_SIZE + size
                lane.unsent -= size
                lane.credit -= size
                lane.has_sent = True
            if lane.unsent or lane.is_full or lane.is_finishing:
                room = self._go_on(lane, pieces, room)
        self.has_output = bool(turns or self._control or self._windows)
        return b"".join(pieces) if pieces else None

    def take_drained(self) -> list[StreamId]:
        """Return the streams that fell to ``LOW_WATER`` since the last call, after passing ``HIGH_WATER``."""
        drained, self.drained = self.drained, []
        return drained

    def _add_control(self, pieces: _Pieces, room: int) -> int:
        """Add as many control frames as fit; return the room left for data, none while one of them waits."""
        pieces.extend(self._pongs)
        room -= sum(map(len, self._pongs))
        self._pongs.clear()
        control = self._control
        while control:
            if len(control[0]) > room:
                return 0
            frame = control.popleft()
            self.control_bytes -= len(frame)
            room -= len(frame)
            pieces.append(frame)
        for stream in list(islice(self._windows, room // _CREDIT_FRAME)):
            pieces.append(encode_credit(FrameType.WINDOW, stream, self._windows.pop(stream)))
            room -= _CREDIT_FRAME
        return room

    def _go_on(self, lane: SendLane, pieces: _Pieces, room: int) -> int:
        """Queue the stream's next turn, or send its end; return the room left in the message."""
        if lane.is_full and lane.unsent <= LOW_WATER:
            lane.is_full = False
            self.drained.append(lane.stream)
        if lane.unsent:
            if lane.credit:
                self._turns[lane.stream] = lane
        elif lane.is_finishing and room < HEADER_SIZE:
            self._turns[lane.stream] = lane
        elif lane.is_finishing:
            pieces.append(encode(FrameType.FINISH, lane.stream))
            room -= HEADER_SIZE
            self._finish_left(lane.stream)
        return room
