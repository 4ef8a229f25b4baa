"""A bounded buffer between engine and caller: the engine never waits for the caller."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

_PIECE_BYTES = 64


class SlowReader(Exception):  # noqa: N818 - the caller is slow; it is no error of ours
    """The caller reads its answer too slowly: the answer is given up."""


class Backlog:
    """Pieces of an answer that the engine has delivered and one caller has not read.

    The engine's side never waits: times are measured there, and a slow caller must not change them.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        """Start empty; None sets no limit."""
        self._limit_bytes = limit_bytes
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def put(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            SlowReader: more waits for the caller than the limit allows.
        """
        self._pieces.append(piece)
        self._bytes += _PIECE_BYTES + len(piece)
        self._changed.set()
        if self._limit_bytes is not None and self._bytes > self._limit_bytes and len(self._pieces) > 1:
            raise SlowReader(f"More than {self._limit_bytes} bytes of the answer wait to be read.")

    def end(self, error: Exception | None = None) -> None:
        """Mark the end. The reader gets an error after the pieces before it, but `SlowReader` at once."""
        self._ended, self._error = True, error
        if isinstance(error, SlowReader):
            self._pieces.clear()
        self._changed.set()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the pieces in order; raise the error that `end` was called with."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._bytes -= _PIECE_BYTES + len(piece)
                yield piece
            if self._ended:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
