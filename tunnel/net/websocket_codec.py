"""
The frames of a WebSocket that is open: what a carrier and a codec ask of each other, and which codec is used.

A codec turns bytes into frames and messages into bytes (RFC 6455 §5), and refuses what is no frame of the
other end's: a wrong mask, a reserved bit or opcode, a length above ours. Which frames a link carries is the
carrier's to say. There are two: ``picows``, compiled, where it is installed, and ``websockets`` everywhere
else and where SALLYPORT_CARRIER=websockets asks for it. Both ends of a link choose for themselves.
"""

import importlib.util
import os
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from importlib import import_module, metadata
from typing import Final, Literal, Protocol

from websockets.protocol import Side

from sallyport.tunnel.errors import SettingRefused

CodecName = Literal["picows", "websockets"]
VARIABLE: Final = "SALLYPORT_CARRIER"

# The part of picows that can be put on our own transport is not among what it promises to keep, so a series
# that was not tried here is not used.
_PICOWS_SERIES: Final = "2.3."


class Opcode(IntEnum):
    """What a frame is (RFC 6455 §5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class FrameCodec(Protocol):
    """What a carrier asks of a codec, once the upgrade is over."""

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: no close frame was sent or received."""

    def receive(self, data: bytes) -> None:
        """
        Take bytes, and tell the receiver of the frames that they complete.

        Raises:
            LinkLost: They are no frames; what tells the peer so has been written. Feed nothing more.
        """

    def send(self, message: bytes) -> None:
        """Write one binary message."""

    def close(self) -> None:
        """Write a close frame."""


class FrameReceiver(Protocol):
    """What a codec asks of its carrier."""

    def message_received(self, message: bytes | bytearray | memoryview) -> None:
        """Take a whole binary message, which is lent for the time of the call only."""

    def frame_received(self, opcode: Opcode) -> None:
        """
        Judge a frame that is no whole binary message and no close; a ping is answered when this returns.

        Raises:
            LinkLost: A link carries no such frame.
        """

    def peer_closed(self) -> None:
        """Take note of a close frame, which has been answered; nothing more comes."""

    def write(self, data: bytes) -> None:
        """Write to the transport."""


CodecMaker = Callable[[Side, FrameReceiver], FrameCodec]


def chosen_codec() -> CodecName:
    """
    Return the codec of this process.

    Raises:
        SettingRefused: SALLYPORT_CARRIER names none, or one that is not installed.
    """
    return _choose(os.environ.get(VARIABLE) or None)


@cache
def _choose(wanted: str | None) -> CodecName:
    if wanted is not None and wanted not in ("picows", "websockets"):
        raise SettingRefused(VARIABLE, wanted, "it is picows or websockets")
    if wanted == "websockets":
        return "websockets"
    if _has_picows():
        return "picows"
    if wanted == "picows":
        raise SettingRefused(VARIABLE, wanted, f"picows {_PICOWS_SERIES}x is not installed")
    return "websockets"


def _has_picows() -> bool:
    if importlib.util.find_spec("picows") is None:
        return False
    return metadata.version("picows").startswith(_PICOWS_SERIES)


@cache
def codec_maker(name: CodecName) -> CodecMaker:
    """Return what makes a codec of that name; the other one's library is not loaded."""
    made: CodecMaker = import_module(f"sallyport.tunnel.net.codec_{name}").make
    return made
