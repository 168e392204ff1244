"""
A recording of everything that goes over one port of the loopback interface, made in the kernel.

An ``AF_PACKET`` socket with a small BPF program (packet(7), needs root), so that nothing has to be installed
and the recorded processes notice nothing. The recording says how many packets it missed: with any, it
proves nothing.
"""

import ctypes
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_ETH_P_IP = 0x0800
_BUFFER = 256 << 20
_LONGEST_PACKET = 1 << 17


class PortCapture:
    """
    Records the packets from and to one TCP port, until it is left.

    Raises:
        PermissionError: this process may not open packet sockets.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.packets = 0
        self.missed = 0
        self._data = bytearray()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        _attach_filter(self._socket, port)
        self._socket.settimeout(0.2)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(("lo", _ETH_P_IP))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        _, self.missed = struct.unpack("II", statistics)
        self._socket.close()

    @property
    def data(self) -> bytes:
        """All packets, headers included, one after the other."""
        return bytes(self._data)

    def _record(self) -> None:
        while True:
            try:
                packet = self._socket.recv(_LONGEST_PACKET)
            except TimeoutError:
                # Nothing is left of what was sent before the stop: the buffer is read in order.
                if self._stopping.is_set():
                    return
                continue
            self._data += packet
            self.packets += 1


class _Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.POINTER(_Filter)))


def _attach_filter(sock: socket.socket, port: int) -> None:
    # Classic BPF, as `tcpdump -dd 'ip and tcp port N'` writes it for Ethernet framing, which lo has.
    instructions = [
        (0x28, 0, 0, 12),  # load the Ethernet type
        (0x15, 0, 8, _ETH_P_IP),
        (0x30, 0, 0, 23),  # load the IP protocol
        (0x15, 0, 6, socket.IPPROTO_TCP),
        (0xB1, 0, 0, 14),  # X = length of the IP header
        (0x48, 0, 0, 14),  # load the source port
        (0x15, 2, 0, port),
        (0x48, 0, 0, 16),  # load the destination port
        (0x15, 0, 1, port),
        (0x06, 0, 0, _LONGEST_PACKET),
        (0x06, 0, 0, 0),
    ]
    filters = (_Filter * len(instructions))(*(_Filter(*each) for each in instructions))
    program = _Program(len(instructions), filters)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
