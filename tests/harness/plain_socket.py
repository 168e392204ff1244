"""
Bytes to the relay's public port and what comes back, without any TLS library in between.
"""

import asyncio
import socket

ALERT_FATAL = b"\x15\x03\x03\x00\x02\x02"


def alert_record(alert: int) -> bytes:
    """Return the record that carries a fatal alert in the clear (RFC 8446 §5.1, §6)."""
    return ALERT_FATAL + bytes([alert])


async def talk(port: int, data: bytes) -> bytes:
    """
    Send bytes, stay open, and return all that comes until the other side ends.

    Raises:
        ConnectionResetError: the other side reset the connection instead of ending it.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


def open_and_send(port: int, data: bytes) -> socket.socket:
    """Connect, send bytes, and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(data)
    return connection
