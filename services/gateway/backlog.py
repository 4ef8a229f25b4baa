"""What the engine has delivered and the caller has not taken: bounded, and the engine never waits for the caller."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

_PIECE_BYTES = 64


class SlowReader(Exception):  # noqa: N818 - the caller does it
    """The caller takes its answer so slowly that it is dropped."""


class Backlog:
    """Pieces of text on their way from the engine to one caller.

    The engine's side never waits: times are taken there, and a caller that reads slowly must not stretch them.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: deque[str] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def put(self, text: str) -> None:
        """Append a piece.

        Raises:
            SlowReader: more waits for the caller than may.
        """
        self._pieces.append(text)
        self._bytes += _cost(text)
        self._changed.set()
        if self._bytes > self._limit_bytes:
            raise SlowReader(f"More than {self._limit_bytes} bytes of the answer wait for the caller.")

    def end(self, error: Exception | None = None) -> None:
        """Mark the end; an error is raised to the reader after the pieces before it, a slow reader's at once."""
        self._ended, self._error = True, error
        if isinstance(error, SlowReader):
            self._pieces.clear()
        self._changed.set()

    async def read(self) -> AsyncIterator[str]:
        """Yield the pieces in order; raise what `end` was given."""
        while True:
            while self._pieces:
                text = self._pieces.popleft()
                self._bytes -= _cost(text)
                yield text
            if self._ended:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error


def _cost(text: str) -> int:
    return _PIECE_BYTES + len(text.encode())
