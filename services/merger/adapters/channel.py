"""Protocol between merge worker and service for access to the store: messages over a socket pair.

A message is a 4-byte big-endian length and a JSON object of that length. Its field `bytes` announces blob bytes that
follow.
"""

import contextlib
import json
import socket
import struct
from typing import Any

from shared.errors import Permanent, SlipwayError, Transient, as_code

PART_BYTES = 16 * 1024 * 1024
"""Maximum blob bytes after one message, because the service holds them in memory per channel."""
CHANNELS = 4
_MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class ClosedError(Exception):
    """The other side closed the connection."""


class Channel:
    """One end of a socket pair, used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: dict[str, Any], data: memoryview | None = None) -> None:
        """Send a message and the blob bytes that follow it."""
        text = json.dumps({**message, "bytes": 0 if data is None else len(data)}).encode()
        try:
            self._connection.sendall(_LENGTH.pack(len(text)) + text)
            if data is not None:
                self._connection.sendall(data)
        except OSError as error:
            raise ClosedError(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """Return the next message; read its blob bytes with `receive_into`.

        Raises:
            ClosedError: The connection is closed.
            ValueError: The bytes are no valid message.
        """
        length = _LENGTH.unpack(self._exactly(_LENGTH.size))[0]
        if length > _MESSAGE_LIMIT_BYTES:
            msg = f"a message has {length} bytes"
            raise ValueError(msg)
        message = json.loads(bytes(self._exactly(length)))
        if not isinstance(message, dict):
            msg = "a message is not an object"
            raise ValueError(msg)  # noqa: TRY004 - the bytes are wrong, not a type of ours
        return message

    def receive_into(self, out: memoryview) -> None:
        """Fill `out` with the blob bytes after a message."""
        filled = 0
        while filled < len(out):
            try:
                count = self._connection.recv_into(out[filled:])
            except OSError as error:
                raise ClosedError(str(error)) from error
            if not count:
                raise ClosedError
            filled += count

    def close(self) -> None:
        """Shut the connection down, so that the other side gets `ClosedError`."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the socket; call this in the thread that uses it."""
        self._connection.close()

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        self.receive_into(memoryview(data))
        return data


def describe(error: SlipwayError) -> dict[str, Any]:
    """Convert an error to a message."""
    return {
        "code": error.code,
        "reason": error.reason,
        "details": error.details,
        "transient": isinstance(error, Transient),
    }


def raise_described(error: dict[str, Any]) -> None:
    """Raise the error in a message."""
    kind = Transient if error["transient"] else Permanent
    raise kind(as_code(error["code"]), error["reason"], **error["details"])
